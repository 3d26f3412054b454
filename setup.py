"""Only the package list; everything else is in setup.cfg, which cannot mix `find:` with a package kept elsewhere."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["hf_radial", "hf_radial.*"]), "hf_radial.model_cards"])
