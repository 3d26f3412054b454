"""Callbacks for any `Trainer`.

- `penalty.py`: the hypersphere penalty. `grokking.py`: when a run fits and when it generalises.
- `progress.py`: a progress bar. `clock.py`: CPU seconds in the log.
- `geometry.py`: measurements of representations. `probe.py`: the rows that it measures. `geometry_line.py`: a line about them.
"""
