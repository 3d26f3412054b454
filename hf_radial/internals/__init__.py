"""Everything private to torch, transformers, accelerate, trl and the C library that this package replaces or reads.

Other rooms call these functions and stay clear of private names. Each file says why the private part is needed, and with which
versions it was checked. docs/internals.md names, for each part, the test that fails when a library changes there. It also
lists the parts that stay in other rooms, such as methods that a subclass of `Trainer` must override.

- `epoch.py`: the loop over an epoch's batches, in place of `Trainer`'s. `memory.py`: glibc's allocator.
- `frames.py`: the trainer that calls a callback. `replacing.py`: other methods on an object, another class in front of it.
- `trainer_parts.py`: small private parts of `Trainer`, of transformers' modules and of accelerate's prepared models.
- `torch_modules.py`: hooks, compiled modules, recorded operations. `torch_compile.py`: settings of `torch.compile`.
- `trl_statistics.py`: what trl's trainers collect for their next log.

It is the lowest room but `safe_files`: it imports nothing of this package.
"""
