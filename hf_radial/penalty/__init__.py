"""The penalty: its formula, its options, and the object that applies it to a model.

- `functional.py`: pure functions of vectors (`radial_penalty`, `radius`, `decompose`, `split_gradient`).
- `radial_penalty.py`: `RadialPenalty`, which hooks a model's sites and returns the penalty of its forward passes.
- `vectors.py`: which vectors of a batch are padding.
- `config.py`: the options and their checks.
"""
