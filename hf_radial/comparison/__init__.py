"""Comparisons of training methods, and studies of many runs.

A grid, from its file to its page:

- `grid.py`: the grid file. `run.py`: one run. `tuning.py`, `trials.py`: how an arm is tuned, and which runs follow.
- `paired.py`, `replicates.py`: designs that tune nothing, or repeat the tuning. `draws.py`: draws that tunings share.
  `best_tuning.py`: the best of an arm's tunings, and what follows the fit.
- `jobs.py`: units of work and their order. `workers.py`: processes or Ray. `outcome.py`: what a run leaves.
  `again.py`: repeats of committed runs.
- `collect.py`: the rows. `times.py`, `statistics.py`, `pooled.py`: from rows to numbers.
- `table.py`, `paired_page.py`, `replicated_page.py`: tables, figures and pages.

Studies with recipes of their own:

- `sizes.py`, `sizes_page.py`: addition at several model sizes. `variants.py`: variants of the penalty on addition.
- `propositions.py`: the paper's three propositions on the modular MLP. `matched_onset.py`: on five seeds of tuned runs.
"""
