"""Several small runs of one shape, trained together in one process.

- `members.py`: `SweepMember`, one run, and what all members must have in common.
- `together.py`: `train_together`. `stacked_mlp.py`: the model of all members at once.
"""

from hf_radial.sweep.members import SweepMember
from hf_radial.sweep.together import train_together

__all__ = ["SweepMember", "train_together"]
