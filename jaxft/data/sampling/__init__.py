"""Seeded draws of images: data factors, splits, and manifests that recreate them.

`drawing.draw` is the entry point. Imports `core`, `config`, `analysis` and `data.readers`. To add a data factor, write
a function in `factors` or in a plug-in and register it.
"""
