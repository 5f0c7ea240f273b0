"""Pictures as they are in the wild, as uint8 RGB squares; what of them cannot be read, and what is odd about them."""

import concurrent.futures
import contextlib
import functools
import io
import os
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from jaxft.core import interrupts

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
MAX_PIXELS = 89_478_485  # Pillow's own limit, above which it warns of a decompression bomb
LARGE_PIXELS = 1 << 24  # of which one picture at a time is decoded, so that memory does not grow with the cores
RESIZER = "pillow-bilinear-shorter-side-centre-crop-1"
AT_ONCE = 1024  # items that wait for a thread
RUN = 16  # items that a thread does at a time: to hand over one takes as long as to read it
ORIENTATION = 0x0112  # Exif's tag: 1 is upright
FAILURES = (OSError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, MemoryError)

_one_large = threading.Lock()


def is_picture(name: PurePosixPath) -> bool:
    """Tells whether a file is a picture by its name, and not hidden."""
    return not is_hidden(name) and name.suffix.lower() in SUFFIXES


def is_hidden(name: PurePosixPath) -> bool:
    """Tells whether a file, or a folder that it is in, is hidden or what macOS puts into archives."""
    return any(part.startswith((".", "__MACOSX")) for part in name.parts)


# --- decoding ---------------------------------------------------------------------------------------------------


def decode(content: bytes, size: int) -> np.ndarray:
    """Returns a picture as [size, size, 3] uint8; raises OSError or ValueError where it cannot be read whole.

    It is turned upright as Exif says. Of several frames it is the first; transparency is left off, as torchvision's
    image folders do; 16 bits of grey become 8. The shorter side is resized and the centre cut out.
    """
    with _opened(content) as image, _alone_if_large(image.width * image.height):
        return fit(_pixels(image, content), size)


def small_grey(content: bytes, side: int) -> np.ndarray:
    """Returns a whole picture as [side, side] uint8, grey, whatever its shape was; fails as `decode` does."""
    with _opened(content) as image, _alone_if_large(image.width * image.height):
        return grey(_pixels(image, content), side)


def grey(image: Any, side: int) -> np.ndarray:
    """Returns an RGB image as [side, side] uint8."""
    from PIL import Image

    return np.asarray(image.convert("L").resize((side, side), Image.Resampling.BILINEAR))


def fit(image: Any, size: int) -> np.ndarray:
    """Returns the centre of an RGB image whose shorter side is resized to `size` (Pillow, bilinear, antialiased)."""
    from PIL import Image

    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Any]:
    """Yields a picture whose size is within limits; every failure in the context is an OSError or a ValueError."""
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


def _alone_if_large(num_pixels: int) -> contextlib.AbstractContextManager[Any]:
    return _one_large if num_pixels > LARGE_PIXELS else contextlib.nullcontext()


def _pixels(image: Any, content: bytes) -> Any:
    pixels = _jpeg_pixels(image, content)
    return _upright_rgb(image) if pixels is None else pixels


def _upright_rgb(image: Any) -> Any:
    from PIL import Image, ImageOps

    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # whose conversion would cut off all above 255
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no range")
    return image.convert("RGB")


def _jpeg_pixels(image: Any, content: bytes) -> Any:
    """Returns an ordinary JPEG file's pixels by simplejpeg, or None where that is not there or Pillow must judge."""
    fast = _simplejpeg()
    plain = image.format == "JPEG" and image.mode in ("RGB", "L") and image.getexif().get(ORIENTATION, 1) == 1
    if fast is None or not plain:
        return None
    try:
        return _by_simplejpeg(fast, content)
    except ValueError:  # a warning of libjpeg's: what of the file can be read is for Pillow to say
        return None


def _by_simplejpeg(fast: Any, content: bytes) -> Any:
    from PIL import Image

    return Image.fromarray(fast.decode_jpeg(content, "RGB", strict=True))


@functools.cache
def _simplejpeg() -> Any:
    """Returns the module simplejpeg, where it is installed and its pixels are Pillow's, exactly."""
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
        if not np.array_equal(np.asarray(_by_simplejpeg(simplejpeg, content.getvalue())), by_pillow):
            return None
    return simplejpeg


# --- what is odd about a picture --------------------------------------------------------------------------------

FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP", ".tif": "TIFF",
    ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM",
}  # fmt: skip


def traits(content: bytes, suffix: str) -> list[str]:
    """Returns what is odd about a picture that can be read, all of which `decode` sees to.

    Of 'grey', 'alpha', 'palette', '16 bits', 'CMYK', 'turned by Exif', 'several frames' and 'wrong suffix'.
    """
    with _opened(content) as image:
        mode = image.mode
        found = {
            "grey": mode in ("1", "L", "LA", "La") or mode.startswith("I;16"),
            "alpha": mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info,
            "palette": mode in ("P", "PA"),
            "16 bits": mode.startswith("I;16") or (content[:8] == b"\x89PNG\r\n\x1a\n" and content[24:25] == b"\x10"),
            "CMYK": mode == "CMYK",
            "turned by Exif": image.getexif().get(ORIENTATION, 1) != 1,
            "several frames": getattr(image, "n_frames", 1) > 1,
            "wrong suffix": FORMATS.get(suffix.lower()) not in (None, image.format, *_related(image.format)),
        }
    return [trait for trait, holds in found.items() if holds]


def _related(format: str | None) -> tuple[str, ...]:
    return ("JPEG",) if format == "MPO" else ()  # as cameras write it, which is a JPEG file with more behind it


def can_find_damage() -> bool:
    """Tells whether damage is found that Pillow reads over: simplejpeg is there."""
    return _simplejpeg() is not None


def damage(content: bytes) -> str:
    """Returns what libjpeg says of a JPEG file's data that Pillow reads over, or an empty string.

    It is found by simplejpeg, and nothing without it. Wrong pixels that are rightly encoded are beyond anybody.
    """
    fast = _simplejpeg()
    if fast is None or not content.startswith(b"\xff\xd8"):
        return ""
    try:
        height, width, space, _ = fast.decode_jpeg_header(content)
        with _alone_if_large(height * width):
            fast.decode_jpeg(content, "CMYK" if space in ("CMYK", "YCCK") else "RGB", strict=True)
    except ValueError as error:
        return shortened(error)
    return ""


# --- many at once -----------------------------------------------------------------------------------------------


def try_each(
    task: Callable[[Any], Any], items: Sequence[Any], on_done: Callable[[int], None] = lambda done: None
) -> list[tuple[Any, str | None]]:
    """Returns the task's result for every item, worked out over all cores, or (None, why there is none).

    `on_done` is called with how many are done, now and then.
    """

    def attempt(item: Any) -> tuple[Any, str | None]:
        try:
            return task(item), None
        except FAILURES as error:
            return None, shortened(error)

    def attempt_all(run: Sequence[Any]) -> list[tuple[Any, str | None]]:
        return [attempt(item) for item in run]

    results: list[tuple[Any, str | None]] = []
    with no_warnings(), concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for begin in range(0, len(items), AT_ONCE):
            interrupts.check()
            at_once = items[begin : begin + AT_ONCE]
            for done in pool.map(attempt_all, [at_once[i : i + RUN] for i in range(0, len(at_once), RUN)]):
                results += done
            on_done(len(results))
    return results


@contextlib.contextmanager
def no_warnings() -> Iterator[None]:
    """Ignores what Pillow warns of, in all threads; `decode` refuses what is too large, and what is odd is no failure.

    The filters are the process's, so that they are set around the threads and not in them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Image size .* exceeds limit")
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def shortened(error: BaseException) -> str:
    """Returns why something failed, in a few words."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return reason if len(reason) <= 90 else reason[:87] + "..."
