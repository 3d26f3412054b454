"""What a run writes and what can be read from it afterwards.

- `record.py`: `run.json`, what a run was. `files.py`: a run's folder, read back. `onset.py`: when it fitted and generalised.
- `start.py`: how a recipe begins and ends: options, presets, the run's folder.
"""
