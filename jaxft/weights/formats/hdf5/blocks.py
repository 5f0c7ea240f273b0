"""Blocks of an HDF5 file: object headers, symbol tables of groups, and heaps of names and strings."""

import functools
import struct
from collections.abc import Iterator
from typing import NamedTuple

from jaxft.weights.formats.refusal import refuse

CONTINUATION = 0x10  # type of the message that refers to more messages
NEWER = "uses a newer layout of HDF5 than Keras writes; open it with h5py, and write it again with libver='earliest'"
LONGEST_NAME = 1024  # bytes; many entries can refer to the same text, so their sum is not bounded by the file
SOFT_LINK = 2  # cache type of a symbol table entry


class Message(NamedTuple):
    """A message of an object header: its type, flags and data."""

    type: int
    flags: int
    data: memoryview


class Blocks:
    """The bytes of an HDF5 file. Every block is parsed at most once, so a file with cycles cannot keep it busy."""

    def __init__(self, content: bytes) -> None:
        self.content = memoryview(content).toreadonly()
        self._nodes: set[int] = set()
        self.global_heap = functools.cache(self._global_heap)

    def bytes_at(self, offset: int, count: int) -> memoryview:
        """Returns `count` bytes of the file."""
        if offset + count > len(self.content):
            refuse("is truncated or damaged: an offset is outside the file")
        return self.content[offset : offset + count]

    def unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        """Returns little-endian integers of the file."""
        return struct.unpack(f"<{layout}", self.bytes_at(offset, struct.calcsize(f"<{layout}")))

    def root(self) -> int:
        """Returns the offset of the object header of the root group."""
        (version,) = self.unpack("B", 8)
        if version not in (0, 1):
            refuse(NEWER)
        sizes = self.unpack("BB", 13)
        start = 24 + 4 * version  # of four addresses, and the symbol table entry of the root group
        (base,) = self.unpack("Q", start)
        if sizes != (8, 8) or base != 0:
            refuse("has an unusual size of offsets, or does not start at its first byte")
        return self.unpack("Q", start + 40)[0]

    def messages(self, header: int) -> list[Message]:
        """Returns the messages of the object header at an offset."""
        if bytes(self.bytes_at(header, 4)) == b"OHDR":
            refuse(NEWER)
        version, count = self.unpack("BxH", header)
        (size,) = self.unpack("I", header + 8)
        if version != 1:
            refuse("has a damaged object header")
        messages: list[Message] = []
        spans = [(header + 16, size)]
        visited = set()
        for start, length in spans:
            if start in visited:
                refuse("has a damaged object header")
            visited.add(start)
            block, position = self.bytes_at(start, length), 0
            while position + 8 <= length and len(messages) < count:
                kind, num_bytes, flags = struct.unpack_from("<HHB", block, position)
                message = Message(kind, flags, block[position + 8 : position + 8 + num_bytes])
                messages.append(message)
                if kind == CONTINUATION:
                    spans.append(struct.unpack_from("<QQ", message.data))
                position += 8 + num_bytes
        return messages

    def links(self, tree: int, heap: int) -> dict[str, int]:
        """Returns the offsets of the object headers in a group by name, from its B-tree and its heap of names."""
        signature, size, _, names = self.unpack("4s4xQQQ", heap)
        if signature != b"HEAP":
            refuse("has a damaged heap of names")
        text = bytes(self.bytes_at(names, size))
        links: dict[str, int] = {}
        for name_offset, header, cache_type in self._entries(tree):
            end = text.find(b"\0", name_offset, name_offset + LONGEST_NAME)
            if end < 0 or cache_type == SOFT_LINK:
                refuse("has a damaged name or a soft link in a group")
            links[text[name_offset:end].decode()] = header
        return links

    def _entries(self, node: int, depth: int = 0) -> Iterator[tuple[int, int, int]]:
        """Yields (offset of the name, offset of the object header, cache type) of each entry of a B-tree."""
        if node in self._nodes or depth > 8:
            refuse("has a B-tree with a cycle")
        self._nodes.add(node)
        signature = bytes(self.bytes_at(node, 4))
        if signature == b"TREE":
            node_type, _, count = self.unpack("BBH", node + 4)
            if node_type != 0:
                refuse("has a damaged B-tree")
            for i in range(count):
                yield from self._entries(self.unpack("Q", node + 32 + 16 * i)[0], depth + 1)
        elif signature == b"SNOD":
            (count,) = self.unpack("H", node + 6)
            for i in range(count):
                yield self.unpack("QQI", node + 8 + 40 * i)  # type: ignore[misc]
        else:
            refuse("has a damaged B-tree")

    def _global_heap(self, offset: int) -> dict[int, memoryview]:
        """Returns the objects of the global heap at an offset, by index."""
        signature, size = self.unpack("4s4xQ", offset)
        if signature != b"GCOL":
            refuse("has a damaged heap of strings")
        block, position = self.bytes_at(offset, size), 16
        objects: dict[int, memoryview] = {}
        while position + 16 <= size:
            index, num_bytes = struct.unpack_from("<H6xQ", block, position)
            if index == 0:  # free space
                break
            objects[index] = block[position + 16 : position + 16 + num_bytes]
            position += 16 + (num_bytes + 7) // 8 * 8
        return objects
