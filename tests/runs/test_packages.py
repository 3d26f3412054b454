"""What a package needs, and what it would add to the dependencies of hf_radial."""

from __future__ import annotations

from hf_radial.runs.packages import ABSENT, is_installed, needed, new_packages


def test_what_is_needed_already_adds_nothing():
    assert new_packages("torch") == {"added": {}, "mb": 0, "pins": []}
    assert {"torch", "transformers", "numpy"} <= set(needed("hf_radial", {}))


def test_a_package_that_is_not_there_is_said_so():
    assert is_installed("torch") and not is_installed("no-such-package-of-this-name")
    assert new_packages("no_such_package_of_this_name")["added"] == {"no-such-package-of-this-name": ABSENT}
