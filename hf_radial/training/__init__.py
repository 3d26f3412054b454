"""How the penalty trains inside a `Trainer`.

- `trainer.py`: `RadialTrainer`. `mixin.py`: `RadialMixin`, one step with the penalty, for any class derived from `Trainer`.
- `run.py`: a run with the penalty, from its start to its end. `set_up.py`: checks and the penalty before the first step.
- `calibration.py`: target radii from the first batch. `site_counts.py`: batches that are counted within the step.
- `window.py`: the sums between two logs. `checkpoints.py`: the newest complete checkpoint.
- `rows.py`: rows of the training set as a batch. `precision.py`: whether float32 or bfloat16 is faster here.
- For measurements: `sharded.py`, the whole model if weights are sharded; `task_loss.py`, the trainer's task loss.
- `fast/`: device-resident datasets.
"""
