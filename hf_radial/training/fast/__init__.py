"""Faster replacements for parts of torch, transformers and accelerate. Each file says what it replaces.

- `epoch.py`: the loop over an epoch's batches. `memory.py`: glibc's allocator.
- `resident.py`: device-resident datasets. `columns.py`: a dataset as tensors. `resident_loader.py`: batches from them.
"""
