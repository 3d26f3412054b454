"""Faster replacements for parts of torch, transformers and accelerate. Each file says what it replaces.

- `epoch.py`: the loop over an epoch's batches. `resident.py`: datasets kept on the device. `memory.py`: glibc's allocator.
"""
