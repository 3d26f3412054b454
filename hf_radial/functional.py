"""`hf_radial.penalty.functional` under its first name."""

from hf_radial.penalty.functional import decompose, penalty_of_radius, radial_penalty, radius, split_gradient

__all__ = ["decompose", "penalty_of_radius", "radial_penalty", "radius", "split_gradient"]
