"""Formats of weight files, one module each, which recognizes, reads and writes them.

Imports only `core`. A new format is a module that defines a `Format`, and an entry in the loop below.
"""

from jaxft.weights.formats.caffe import CAFFE
from jaxft.weights.formats.format import (
    FORMATS,
    Contents,
    Format,
    format_of,
    format_to_write,
    matching_formats,
    readable_suffixes,
    register_format,
    writable_suffixes,
)
from jaxft.weights.formats.keras import KERAS, KERAS_ARCHIVE
from jaxft.weights.formats.msgpack import MSGPACK
from jaxft.weights.formats.npz import NPZ
from jaxft.weights.formats.orbax import ORBAX
from jaxft.weights.formats.safetensors import SAFETENSORS
from jaxft.weights.formats.safetensors_index import SAFETENSORS_INDEX
from jaxft.weights.formats.torch import TORCH

__all__ = [
    "FORMATS",
    "Contents",
    "Format",
    "format_of",
    "format_to_write",
    "matching_formats",
    "readable_suffixes",
    "register_format",
    "writable_suffixes",
]

# Archives of PyTorch have no signature of their own among zip archives, so PyTorch is the last format of zip archives.
for built_in in (SAFETENSORS, SAFETENSORS_INDEX, NPZ, KERAS, KERAS_ARCHIVE, CAFFE, MSGPACK, ORBAX, TORCH):
    register_format(built_in)
