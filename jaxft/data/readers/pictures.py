"""Decoding pictures: files as they are in the wild become uint8 RGB squares."""

import contextlib
import io
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxft.core.digests import sha256_of
from jaxft.data.readers import fast_jpeg

MAX_PIXELS = 89_478_485  # Pillow's own limit, above which it warns of a decompression bomb
LARGE_PIXELS = 1 << 24  # of which one picture at a time is decoded, so that memory does not grow with the cores
RESIZER = "pillow-bilinear-shorter-side-centre-crop-1"
ORIENTATION = 0x0112  # Exif's tag: 1 is upright

_one_large = threading.Lock()


def decode(content: bytes, size: int) -> np.ndarray:
    """Returns a picture as [size, size, 3] uint8; raises OSError or ValueError where it cannot be read whole.

    It is turned upright as Exif says. Of several frames it is the first; transparency is left off, as torchvision's
    image folders do; 16 bits of gray become 8. The shorter side is resized and the center cut out.
    """
    with opened(content) as image, alone_if_large(image.width * image.height):
        return fit(_pixels(image, content), size)


def to_pixels(content: bytes | np.ndarray, size: int) -> np.ndarray:
    """Returns a picture as [size, size, 3] uint8, from its file's content or its pixels [height, width (, 1 or 3)]."""
    from PIL import Image

    if isinstance(content, bytes):
        return decode(content, size)
    gray = content.ndim == 2 or content.shape[-1] == 1
    return fit(Image.fromarray(content.reshape(content.shape[:2]) if gray else content).convert("RGB"), size)


def small_gray(content: bytes, side: int) -> np.ndarray:
    """Returns a whole picture as [side, side] uint8, gray, whatever its shape was; fails as `decode` does."""
    with opened(content) as image, alone_if_large(image.width * image.height):
        return gray(_pixels(image, content), side)


def gray(image: Any, side: int) -> np.ndarray:
    """Returns an RGB image as [side, side] uint8."""
    from PIL import Image

    return np.asarray(image.convert("L").resize((side, side), Image.Resampling.BILINEAR))


def fit(image: Any, size: int) -> np.ndarray:
    """Returns the center of an RGB image whose shorter side is resized to `size` (Pillow, bilinear, antialiased)."""
    from PIL import Image

    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[Any]:
    """Yields a Pillow image whose size is within limits; failures in the context are OSErrors or ValueErrors."""
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise ValueError("it is empty")
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
            yield image
    except UnidentifiedImageError:  # whose message names a Python object
        raise ValueError("it has no known picture format") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"it is too large: {error}") from None
    except (
        SyntaxError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        ArithmeticError,
    ) as e:
        raise ValueError(str(e) or type(e).__name__) from None  # from broken headers


def alone_if_large(num_pixels: int) -> contextlib.AbstractContextManager[Any]:
    """Returns a lock that one large picture at a time holds; for any other picture nothing."""
    return _one_large if num_pixels > LARGE_PIXELS else contextlib.nullcontext()


def _pixels(image: Any, content: bytes) -> Any:
    """Returns an open picture as an upright RGB image; an ordinary JPEG file's by simplejpeg, if that is there."""
    from PIL import Image

    if image.format == "JPEG" and image.mode in ("RGB", "L") and image.getexif().get(ORIENTATION, 1) == 1:
        pixels = fast_jpeg.pixels(content)
        if pixels is not None:
            return Image.fromarray(pixels)
    return _upright_rgb(image)


def _upright_rgb(image: Any) -> Any:
    from PIL import Image, ImageOps

    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # whose conversion would cut off all above 255
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no range")
    return image.convert("RGB")


def content_hash(content: bytes | np.ndarray) -> str:
    """Returns the sha256 of a picture's file, or of its pixels and their shape."""
    return sha256_of(content) if isinstance(content, bytes) else sha256_of(f"{content.shape}", content)
