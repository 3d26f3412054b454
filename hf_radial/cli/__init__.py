"""The command `hf-radial`."""

from hf_radial.cli.main import main

__all__ = ["main"]
