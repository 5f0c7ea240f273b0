"""What is drawn of images by a seed: data factors, splits, and manifests that recreate them.

`drawing.draw` is the door. Imports `core`, `config`, `analysis` and `data.readers`. Grows by a data factor: a function
in `factors`, or in a plug-in, and a line that registers it.
"""
