"""Callbacks for any `Trainer`."""
