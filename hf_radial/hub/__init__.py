"""Model cards, dataset cards and uploads to the Hub.

- `model_card.py`: the card of a run. `publish_model.py`: a finished run's folder. `publish_dataset.py`: a task as a dataset.
- `usage.py`: snippets for the cards of the recipes' models.
- `pushing.py`: what a `Trainer` pushes while it trains. `retry.py`: which errors are tried again, and for how long.
"""
