"""An intervention (`noise.py`), a task (`squares.py`), a metric (`ratio.py`), and a model and data for grids (`grid.py`)."""
