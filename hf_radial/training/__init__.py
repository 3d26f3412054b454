"""How the penalty trains inside a `Trainer`.

- `mixin.py`: `RadialMixin`, for any class derived from `Trainer`. `trainer.py`: `RadialTrainer`.
- `window.py`: what is summed between two logs. `rows.py`: rows of the training set as a batch.
- `calling.py`: the trainer that is calling a callback. `sharded.py`: its whole model where weights are sharded.
  `task_loss.py`: its task loss, for measurements.
- `precision.py`: whether float32 or bfloat16 is faster here.
- `checkpoints.py`: the newest complete checkpoint to go on from.
- `fast/`: what replaces slower code of the libraries below, and how a change there is noticed.
"""
