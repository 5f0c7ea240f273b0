"""Weight files: reads, checks, converts and writes them, with a manifest of their metadata.

Imports `core` and `models`. A format is a file in `formats/`, and a naming is a table in `namings/`. The names below
are imported on first use, so that the help of a command does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxft.weights.class_names import read_class_names
    from jaxft.weights.conversion import convert_weights
    from jaxft.weights.damage import damaged_values, refuse_damaged
    from jaxft.weights.loading import load, load_flat, load_weights, read_file, read_network
    from jaxft.weights.manifest import Manifest, digest_of
    from jaxft.weights.metadata import replace_preprocessing
    from jaxft.weights.namings import find_port, register_naming
    from jaxft.weights.opening import open_file
    from jaxft.weights.options import ReadOptions
    from jaxft.weights.porting import is_head, num_classes_of, port, port_with_head, to_tensors
    from jaxft.weights.published import find_file, find_model
    from jaxft.weights.saving import check_output_path, save_weights
    from jaxft.weights.verification import verify_file

_MODULES = {
    "Manifest": "manifest",
    "ReadOptions": "options",
    "check_output_path": "saving",
    "convert_weights": "conversion",
    "damaged_values": "damage",
    "digest_of": "manifest",
    "find_file": "published",
    "find_model": "published",
    "find_port": "namings",
    "is_head": "porting",
    "load": "loading",
    "load_flat": "loading",
    "load_weights": "loading",
    "num_classes_of": "porting",
    "open_file": "opening",
    "port": "porting",
    "port_with_head": "porting",
    "read_class_names": "class_names",
    "read_file": "loading",
    "read_network": "loading",
    "refuse_damaged": "damage",
    "register_naming": "namings",
    "replace_preprocessing": "metadata",
    "save_weights": "saving",
    "to_tensors": "porting",
    "verify_file": "verification",
}
__all__ = [
    "Manifest",
    "ReadOptions",
    "check_output_path",
    "convert_weights",
    "damaged_values",
    "digest_of",
    "find_file",
    "find_model",
    "find_port",
    "is_head",
    "load",
    "load_flat",
    "load_weights",
    "num_classes_of",
    "open_file",
    "port",
    "port_with_head",
    "read_class_names",
    "read_file",
    "read_network",
    "refuse_damaged",
    "register_naming",
    "replace_preprocessing",
    "save_weights",
    "to_tensors",
    "verify_file",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'jaxft.weights' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxft.weights.{_MODULES[name]}"), name)
