"""The penalty: its formula, its options, and the object that applies it to a model.

- `functional.py`: pure functions of vectors (`radial_penalty`, `radius`, `decompose`, `split_gradient`).
- `radial_penalty.py`: `RadialPenalty`, which hooks a model's sites and returns the penalty of its forward passes.
- `site_sums.py`: penalty, radius and count of a forward pass, added up by site. `checks.py`: what would make them wrong.
- `vectors.py`: which vectors of a batch are padding.
- `config.py`: the options and their checks.
"""
