"""The Markdown templates of the model cards, installed as the package `hf_radial.model_cards` (data only, no code)."""
