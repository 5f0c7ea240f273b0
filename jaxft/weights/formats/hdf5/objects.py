"""Groups and datasets of an HDF5 file."""

import functools
import struct
from collections.abc import Iterator

import numpy as np

from jaxft.weights.formats.hdf5.blocks import NEWER, Blocks, Message
from jaxft.weights.formats.hdf5.values import STRING, VARIABLE_LENGTH, parse_shape, parse_type, to_array, to_texts
from jaxft.weights.formats.refusal import printable, refuse

DATASPACE, DATATYPE, EXTERNAL_FILES, LAYOUT, FILTERS, ATTRIBUTE, SYMBOL_TABLE = 0x1, 0x3, 0x7, 0x8, 0xB, 0xC, 0x11
NEW_GROUP = (0x2, 0x6)  # link info and link: groups without a symbol table
SHARED = 2  # flag of a message that is stored elsewhere
COMPACT, CONTIGUOUS = 0, 1
MOST_DEPTH = 32  # of nested groups


class Hdf5Object:
    """A group or a dataset."""

    def __init__(self, blocks: Blocks, header: int) -> None:
        self._blocks = blocks
        self._messages = blocks.messages(header)
        self._objects: dict[str, Hdf5Object] = {}
        if any(message.type in NEW_GROUP for message in self._messages):
            refuse(NEWER)

    @functools.cached_property
    def links(self) -> dict[str, int]:
        """Returns the offsets of the objects in a group by name; empty for a dataset."""
        messages = [message for message in self._messages if message.type == SYMBOL_TABLE]
        return self._blocks.links(*struct.unpack_from("<QQ", messages[0].data)) if messages else {}

    @property
    def is_dataset(self) -> bool:
        """Returns whether the object is a dataset."""
        return any(message.type == LAYOUT for message in self._messages)

    def __getitem__(self, path: str) -> "Hdf5Object":
        """Returns the object at a path, such as `layers/conv2d/vars`, in a group."""
        name, _, inner = path.strip("/").partition("/")
        if name not in self.links:
            refuse(f"has no object {printable(path)!r}, which it names")
        if name not in self._objects:
            self._objects[name] = Hdf5Object(self._blocks, self.links[name])
        return self._objects[name][inner] if inner else self._objects[name]

    def datasets(self, path: str = "", depth: int = 0) -> "Iterator[tuple[str, Hdf5Object]]":
        """Yields all datasets in a group and its groups, with their paths."""
        if depth > MOST_DEPTH:
            refuse("has groups that are nested too deeply")
        for name in self.links:
            inner = f"{path}/{name}" if path else name
            if self[name].is_dataset:
                yield inner, self[name]
            else:
                yield from self[name].datasets(inner, depth + 1)

    def texts(self, attribute: str) -> list[str] | None:
        """Returns the strings of an attribute, or None if the object has no such attribute of strings."""
        if attribute not in self._attributes:
            return None
        datatype, dataspace, data = self._attributes[attribute]
        if datatype[0] & 0xF not in (STRING, VARIABLE_LENGTH):
            return None
        return to_texts(self._blocks, parse_type(datatype), parse_shape(dataspace), data)

    @functools.cached_property
    def _attributes(self) -> dict[str, tuple[memoryview, memoryview, memoryview]]:
        """Returns the datatype, the dataspace and the values of each attribute by name."""
        return dict(_split_attribute(message) for message in self._messages if message.type == ATTRIBUTE)

    def array(self) -> np.ndarray:
        """Returns the values of a dataset of any shape, as a read-only view of the file."""
        messages = {message.type: message for message in self._messages}
        if FILTERS in messages:
            refuse("has a compressed dataset, which Keras never writes; write the file again without compression")
        if EXTERNAL_FILES in messages:
            refuse("has a dataset whose values are in another file")
        if not {DATASPACE, DATATYPE, LAYOUT} <= messages.keys() or messages[DATATYPE].flags & SHARED:
            refuse("has a damaged dataset")
        shape = parse_shape(messages[DATASPACE].data)
        return to_array(parse_type(messages[DATATYPE].data), shape, self._values(messages[LAYOUT].data))

    def _values(self, layout: memoryview) -> memoryview:
        """Returns the bytes of the values of a dataset."""
        version, kind = struct.unpack_from("<BB", layout)
        if version not in (3, 4) or kind not in (COMPACT, CONTIGUOUS):
            refuse("has a dataset in chunks, which Keras never writes; write the file again without chunks")
        if kind == COMPACT:
            (size,) = struct.unpack_from("<H", layout, 2)
            return layout[4 : 4 + size]
        offset, size = struct.unpack_from("<QQ", layout, 2)
        return self._blocks.bytes_at(offset, size) if size else memoryview(b"")


def _split_attribute(message: Message) -> tuple[str, tuple[memoryview, memoryview, memoryview]]:
    """Returns the name of an attribute, and its datatype, dataspace and values."""
    data = message.data
    version, flags, *sizes = struct.unpack_from("<BBHHH", data)
    if version not in (1, 2, 3) or (version > 1 and flags):
        refuse("has a damaged attribute")
    fields, position = [], 9 if version == 3 else 8
    for size in sizes:
        fields.append(data[position : position + size])
        position += (size + 7) // 8 * 8 if version == 1 else size
    name, datatype, dataspace = fields
    return bytes(name).rstrip(b"\0").decode(), (datatype, dataspace, data[position:])


def open_hdf5(content: bytes) -> Hdf5Object:
    """Returns the root group of an HDF5 file."""
    blocks = Blocks(content)
    return Hdf5Object(blocks, blocks.root())
