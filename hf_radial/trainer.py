"""`RadialTrainer` and `RadialMixin` under their first address."""

from hf_radial.training.mixin import RadialMixin
from hf_radial.training.trainer import RadialTrainer

__all__ = ["RadialMixin", "RadialTrainer"]
