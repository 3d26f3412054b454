"""Device-resident datasets: a table that fits is kept on the device. The fast training loop is `hf_radial/internals/epoch.py`.

- `resident.py`: for any `Trainer`. `columns.py`: a dataset as tensors. `resident_loader.py`: batches from them.
"""
