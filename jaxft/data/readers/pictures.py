"""Decoding of image files into square uint8 RGB images."""

import contextlib
import functools
import io
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxft.core.digests import sha256_of
from jaxft.data.readers import fast_jpeg
from jaxft.data.readers.enlarging import enlarged_part
from jaxft.data.readers.exif import TRANSPOSES, UPRIGHT, orientation_of, without_exif
from jaxft.data.readers.file_names import FORMATS

MAX_PIXELS = 89_478_485  # above this limit, Pillow warns of a decompression bomb
LARGE_PIXELS = 1 << 24  # larger images are decoded one at a time, so memory does not grow with the number of cores
RESIZER = "pillow-bilinear-shorter-side-centre-crop-1"
MAX_RESIZED_PIXELS = 1 << 22  # of an image that is enlarged to more, only the center is computed
BITS_PER_SAMPLE = 0x0102  # TIFF tag

_one_large = threading.Lock()


def decode(content: bytes, size: int) -> np.ndarray:
    """Returns the decoded image file, [size, size, 3] uint8.

    The Exif rotation is applied, and the first of several frames is used. Transparency is dropped, as in the image
    folders of torchvision. 16-bit gray becomes 8-bit. The shorter side is resized, followed by a center crop.

    Raises:
      OSError, ValueError: the image cannot be read completely.
    """
    with opened(content) as image, alone_if_large(image.width * image.height):
        return fit(_pixels(image, content), size)


def to_pixels(content: bytes | np.ndarray, size: int) -> np.ndarray:
    """Returns an image [size, size, 3] uint8, from the content of a file or from pixels [height, width (, 1 or 3)].

    Raises:
      OSError, ValueError: the image cannot be read completely.
    """
    from PIL import Image

    if isinstance(content, bytes):
        return decode(content, size)
    gray = content.ndim == 2 or content.shape[-1] == 1
    return fit(Image.fromarray(content.reshape(content.shape[:2]) if gray else content).convert("RGB"), size)


def small_gray(content: bytes, side: int) -> np.ndarray:
    """Returns the decoded image file in gray, [side, side] uint8, resized without keeping the aspect ratio.

    Raises:
      OSError, ValueError: the image cannot be read completely.
    """
    with opened(content) as image, alone_if_large(image.width * image.height):
        return gray(_pixels(image, content), side)


def gray(image: Any, side: int) -> np.ndarray:
    """Returns an RGB image of Pillow in gray, [side, side] uint8."""
    from PIL import Image

    return np.asarray(image.convert("L").resize((side, side), Image.Resampling.BILINEAR))


def fit(image: Any, size: int) -> np.ndarray:
    """Returns the center crop of an RGB image of Pillow, [size, size, 3] uint8.

    The shorter side is first resized to `size` (bilinear, antialiased).
    """
    from PIL import Image

    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    if scale > 1 and width * height > MAX_RESIZED_PIXELS:
        return enlarged_part(np.asarray(image), (height, width), (top, left), size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + size, top + size)))


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[Any]:
    """Yields the Pillow image of a file.

    Raises:
      OSError, ValueError: the file is unreadable, empty, of unknown format, or larger than `MAX_PIXELS`. Errors that
        Pillow raises inside the context are converted to these classes.
    """
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise ValueError("the file is empty")
    try:
        with _open(content) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} is more than {MAX_PIXELS:,} pixels")
            yield image
    except UnidentifiedImageError:  # its message names a Python object
        raise ValueError("the image format is unknown") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"the image is too large: {error}") from None
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # a broken header can raise any class
        raise ValueError(str(error) or type(error).__name__) from None


def _open(content: bytes) -> Any:
    """Opens an image; if that fails because of broken Exif data, without them."""
    from PIL import Image

    try:
        return Image.open(io.BytesIO(content), formats=_openable_formats())
    except Exception:
        plain = without_exif(content)
        if plain == content:
            raise
        return Image.open(io.BytesIO(plain), formats=_openable_formats())


@functools.cache
def _openable_formats() -> tuple[str, ...]:
    """Returns the formats that this Pillow opens; it opens MPO as JPEG, and AVIF if it is built so."""
    from PIL import Image

    Image.init()
    return tuple(format for format in FORMATS if format in Image.OPEN)


def alone_if_large(num_pixels: int) -> contextlib.AbstractContextManager[Any]:
    """Returns a lock for images of more than `LARGE_PIXELS`, and a context without effect for smaller images."""
    return _one_large if num_pixels > LARGE_PIXELS else contextlib.nullcontext()


def _pixels(image: Any, content: bytes) -> Any:
    """Returns an open image as an upright RGB image. simplejpeg, if available, decodes ordinary JPEG files."""
    from PIL import Image

    if image.format == "JPEG" and image.mode in ("RGB", "L") and orientation_of(image) == UPRIGHT:
        pixels = fast_jpeg.pixels(content)
        if pixels is not None:
            return Image.fromarray(pixels)
    return _upright_rgb(image)


def _upright_rgb(image: Any) -> Any:
    from PIL import Image

    image.load()  # before the orientation is read, because Pillow itself rotates a TIFF file here
    transpose = TRANSPOSES.get(orientation_of(image))
    max_value = _max_value(image)
    if max_value > 255:  # Pillow would clip values above 255
        image = Image.fromarray(_to_bytes(np.asarray(image), max_value))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no fixed range")
    image = image.convert("RGB")
    return image if transpose is None else image.transpose(Image.Transpose[transpose])


def _to_bytes(pixels: np.ndarray, max_value: int) -> np.ndarray:
    """Returns gray pixels [height, width] from 0 to `max_value` as uint8, scaled row by row to save memory."""
    scaled = np.empty(pixels.shape, np.uint8)
    for row, values in enumerate(pixels):
        scaled[row] = np.round(values / (max_value / 255)).astype(np.uint8)
    return scaled


def _max_value(image: Any) -> int:
    """Returns the largest value of the pixels of a gray image of 9 to 16 bits, and 255 for other images."""
    if image.mode.startswith("I;16"):
        bits = image.tag_v2.get(BITS_PER_SAMPLE, (16,)) if image.format == "TIFF" else (16,)
        return int(2 ** bits[0] - 1)
    return 65535 if image.mode == "I" and image.format == "PPM" else 255  # Pillow scales by the maximum of the file


def content_hash(content: bytes | np.ndarray) -> str:
    """Returns the sha256 of the content of an image file, or of pixels [height, width (, 1 or 3)] and their shape."""
    return sha256_of(content) if isinstance(content, bytes) else sha256_of(f"{content.shape}", content)
