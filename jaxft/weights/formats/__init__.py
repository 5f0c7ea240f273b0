"""Formats of weight files, one module each, which recognizes, reads and writes them.

Imports only `core`. A new format is a module that defines a `Format`, and an entry in the loop below.
"""

from jaxft.weights.formats.format import (
    FORMATS,
    Contents,
    Format,
    format_of,
    format_to_write,
    readable_suffixes,
    register_format,
    writable_suffixes,
)
from jaxft.weights.formats.msgpack import MSGPACK
from jaxft.weights.formats.safetensors import SAFETENSORS
from jaxft.weights.formats.torch import TORCH

__all__ = [
    "FORMATS",
    "Contents",
    "Format",
    "format_of",
    "format_to_write",
    "readable_suffixes",
    "register_format",
    "writable_suffixes",
]

for built_in in (SAFETENSORS, MSGPACK, TORCH):
    register_format(built_in)
