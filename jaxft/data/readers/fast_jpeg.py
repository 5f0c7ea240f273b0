"""JPEG decoding with simplejpeg, which is faster than Pillow. It is used if its pixels are identical."""

import functools
import io
from typing import Any

import numpy as np


def pixels(content: bytes) -> np.ndarray | None:
    """Returns the pixels [height, width, 3] uint8 of a JPEG file.

    Returns None if simplejpeg is not used, or if libjpeg warns; Pillow then decodes the file or rejects it.
    """
    fast = simplejpeg()
    if fast is None:
        return None
    try:
        return _decode(fast, content)
    except ValueError:
        return None


def _decode(fast: Any, content: bytes) -> np.ndarray:
    return np.asarray(fast.decode_jpeg(content, "RGB", strict=True))


@functools.cache
def simplejpeg() -> Any:
    """Returns the module simplejpeg, or None if it is not installed or its pixels differ from those of Pillow."""
    from PIL import Image

    try:
        import simplejpeg
    except ImportError:
        return None
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (37, 53, 3), np.uint8)
    for mode, subsampling in (("RGB", 0), ("RGB", 1), ("RGB", 2), ("L", 0)):
        content = io.BytesIO()
        Image.fromarray(noise).convert(mode).save(content, "jpeg", quality=80, subsampling=subsampling)
        expected = np.asarray(Image.open(content).convert("RGB"))
        if not np.array_equal(_decode(simplejpeg, content.getvalue()), expected):
            return None
    return simplejpeg
