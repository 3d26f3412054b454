"""Sequences of tasks: many runs of one method together (`stack`, `sequence`), equal tuning (`study`), and criteria (`verdict`)."""
