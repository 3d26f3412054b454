"""Installed packages: which others one needs, and what a new one would add to those of hf_radial."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

ABSENT = "(not installed here)"  # in place of a version


def needed(package: str, found: dict[str, str]) -> dict[str, str]:
    """A package, what it needs, and what that needs: name -> version. They are added to `found`."""
    from packaging.requirements import Requirement

    name = package.lower().replace("_", "-")
    if name not in found:
        try:
            installed = distribution(package)
        except PackageNotFoundError:
            found[name] = ABSENT
            return found
        found[name] = installed.version
        for text in installed.requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed(requirement.name, found)
    return found


def is_installed(package: str) -> bool:
    """Whether a package is installed here."""
    return needed(package, {})[package.lower().replace("_", "-")] != ABSENT


def new_packages(package: str) -> dict[str, Any]:
    """What a package would add to the dependencies of hf_radial.

    Returns:
        `added`: name -> version; `mb`: their size on disk in megabytes; `pins`: those that need one exact version of torch.
    """
    ours_already = needed("hf_radial", {})
    added = {name: v for name, v in needed(package, {}).items() if name not in ours_already}
    present = [name for name, version in added.items() if version != ABSENT]
    sizes = [f.locate() for name in present for f in distribution(name).files or []]
    pins = [f"{name}: {r}" for name in present for r in distribution(name).requires or [] if r.startswith("torch==")]
    return {"added": added, "mb": sum(Path(str(f)).stat().st_size for f in sizes if Path(str(f)).is_file()) / 1e6, "pins": pins}
