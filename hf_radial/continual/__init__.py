"""Sequences of tasks: members trained together (`stack`, `sequence`), equal tuning (`study`), answers (`verdict`)."""
