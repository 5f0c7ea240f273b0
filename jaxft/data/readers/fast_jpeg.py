"""JPEG files by simplejpeg, which is faster than Pillow, if it is installed and gives the same pixels."""

import functools
import io
from typing import Any

import numpy as np


def pixels(content: bytes) -> np.ndarray | None:
    """Returns a JPEG file's pixels [height, width, 3] uint8.

    None, if simplejpeg is not used, or libjpeg warns: what can be read of such a file is for Pillow to say.
    """
    fast = simplejpeg()
    if fast is None:
        return None
    try:
        return _decoded(fast, content)
    except ValueError:
        return None


def _decoded(fast: Any, content: bytes) -> np.ndarray:
    return np.asarray(fast.decode_jpeg(content, "RGB", strict=True))


@functools.cache
def simplejpeg() -> Any:
    """Returns the module simplejpeg; None, if it is not installed or its pixels are not Pillow's, exactly."""
    from PIL import Image

    try:
        import simplejpeg
    except ImportError:
        return None
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (37, 53, 3), np.uint8)
    for mode, subsampling in (("RGB", 0), ("RGB", 1), ("RGB", 2), ("L", 0)):
        content = io.BytesIO()
        Image.fromarray(noise).convert(mode).save(content, "jpeg", quality=80, subsampling=subsampling)
        by_pillow = np.asarray(Image.open(content).convert("RGB"))
        if not np.array_equal(_decoded(simplejpeg, content.getvalue()), by_pillow):
            return None
    return simplejpeg
