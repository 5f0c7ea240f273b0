"""Weight files in and out: formats, namings, checks, and a manifest of what belongs to the numbers.

Imports `core` and `models`. A format is a file in `formats/`, a naming a table in `namings/`. The names below are
imported on first use, so that a command's help imports no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxft.weights.conversion import convert_weights
    from jaxft.weights.damage import damaged_values, refuse_damaged
    from jaxft.weights.loading import load, load_flat, load_weights, read_file, read_network
    from jaxft.weights.manifest import Manifest, digest_of
    from jaxft.weights.namings import find_port, register_naming
    from jaxft.weights.porting import fit, is_head, num_classes_of, port, to_foreign
    from jaxft.weights.published import find_file, find_model
    from jaxft.weights.saving import check_output_path, save_weights
    from jaxft.weights.verification import verify_file

_HOMES = {
    "Manifest": "manifest",
    "check_output_path": "saving",
    "convert_weights": "conversion",
    "damaged_values": "damage",
    "digest_of": "manifest",
    "find_file": "published",
    "find_model": "published",
    "find_port": "namings",
    "fit": "porting",
    "is_head": "porting",
    "load": "loading",
    "load_flat": "loading",
    "load_weights": "loading",
    "num_classes_of": "porting",
    "port": "porting",
    "read_file": "loading",
    "read_network": "loading",
    "refuse_damaged": "damage",
    "register_naming": "namings",
    "save_weights": "saving",
    "to_foreign": "porting",
    "verify_file": "verification",
}
__all__ = [
    "Manifest",
    "check_output_path",
    "convert_weights",
    "damaged_values",
    "digest_of",
    "find_file",
    "find_model",
    "find_port",
    "fit",
    "is_head",
    "load",
    "load_flat",
    "load_weights",
    "num_classes_of",
    "port",
    "read_file",
    "read_network",
    "refuse_damaged",
    "register_naming",
    "save_weights",
    "to_foreign",
    "verify_file",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxft.weights' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxft.weights.{_HOMES[name]}"), name)
