"""Faster replacements for parts of torch, transformers and accelerate. Each file says what it replaces.

- `epoch.py`: the loop over an epoch's batches. `resident.py`: device-resident datasets.
  `memory.py`: glibc's allocator.
"""
