"""Weight files in and out, by port table, with checks and a manifest.

Imports `core` and `models`. A format is a file in `formats/`.
"""

from jaxft.weights.files import Manifest, convert_weights, load_weights, save_weights

__all__ = ["Manifest", "convert_weights", "load_weights", "save_weights"]
