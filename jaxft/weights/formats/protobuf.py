"""The wire format of Protocol Buffers: fields with a number and a type (protobuf.dev/programming-guides/encoding)."""

from collections.abc import Iterator

from jaxft.weights.formats.refusal import refuse

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; groups (3 and 4) are not in use any more
LONGEST_VARINT = 10  # bytes


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields (field number, value) of each field: an integer for a varint, otherwise a view of its bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        value: int | memoryview
        match key & 7:
            case 0:
                value, position = _varint(message, position)
            case 1 | 5 as wire_type:
                size = 8 if wire_type == FIXED64 else 4
                value, position = _bytes(message, position, size), position + size
            case 2:
                size, position = _varint(message, position)
                value, position = _bytes(message, position, size), position + size
            case _:
                refuse("has a field of an unknown wire type")
        yield key >> 3, value


def varints(packed: memoryview) -> list[int]:
    """Returns the integers of a packed field."""
    values, position = [], 0
    while position < len(packed):
        value, position = _varint(packed, position)
        values.append(value)
    return values


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Returns the integer at a position, and the position after it."""
    value = 0
    for i, byte in enumerate(message[position : position + LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, position + i + 1
    return refuse("is truncated or has a damaged integer")


def _bytes(message: memoryview, position: int, size: int) -> memoryview:
    if position + size > len(message):
        refuse("is truncated or has a damaged length")
    return message[position : position + size]


def encode_varint(value: int) -> bytes:
    """Returns a non-negative integer in the wire format."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def encode_field(number: int, content: bytes) -> bytes:
    """Returns a field of bytes, text, a message or packed values in the wire format."""
    return encode_varint(number << 3 | BYTES) + encode_varint(len(content)) + content
