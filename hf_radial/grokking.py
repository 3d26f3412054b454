"""`hf_radial.runs.onset` under its first name."""

from hf_radial.runs.onset import curve, fit_step, format_step, onset_step, summarise

__all__ = ["curve", "fit_step", "format_step", "onset_step", "summarise"]
