"""What a run writes, and what can be read from it afterwards.

- `script.py`: a recipe as a script. `shipped.py`: where the recipes and their files are.
- `start.py`: how a recipe starts and ends (options, presets, the run's folder). `resume.py`: how an interrupted run continues.
- `record.py`: `run.json`. `results.py`: results, card and row. `processes.py`: a study's runs as processes.
- `epochs.py`: intervals in epochs. `packages.py`: what a package needs.
- `files.py`: a run's folder, read back. `text_files.py`: JSON and YAML files, read back.
- `onset.py`: from which step a run has fitted its training data, and from which step it generalises.
"""
