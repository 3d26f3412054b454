"""The browser in which this room's tests look at pages."""

from chromium import browser  # noqa: F401 (a fixture)
