"""Orientation of an image from its Exif data, which may be broken."""

import struct
from typing import Any

ORIENTATION, UPRIGHT = 0x0112, 1  # the tag, and its value for an upright image
TRANSPOSES = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip
APP1, START_OF_SCAN = 0xE1, 0xDA  # markers of a JPEG file


def orientation_of(image: Any) -> int:
    """Returns the orientation of an open image of Pillow, 1 to 8. It is 1 if the Exif data are missing or broken."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # for broken data, the parser raises many classes; the pixels are not concerned
        return UPRIGHT
    return orientation if isinstance(orientation, int) and orientation in TRANSPOSES else UPRIGHT


def without_exif(content: bytes) -> bytes:
    """Returns the content of a JPEG file without its Exif data, and the content of any other file unchanged."""
    at, kept = 2, [content[:2]]
    while content.startswith(b"\xff\xd8\xff") and at + 4 <= len(content):
        marker, length = struct.unpack_from(">xBH", content, at)
        if content[at] != 0xFF or marker == START_OF_SCAN:
            break
        if marker != APP1 or content[at + 4 : at + 8] != b"Exif":
            kept.append(content[at : at + 2 + length])
        at += 2 + length
    return b"".join((*kept, content[at:]))
