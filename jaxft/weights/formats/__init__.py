"""Formats of weight files, a file each: how a file is known, read and written.

Imports `core` only. A new format is a file that defines a `Format`, and a name in the loop below.
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
