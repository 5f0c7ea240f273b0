"""What is odd about a picture that can be read, and damage that Pillow reads over."""

from jaxft.data.readers import fast_jpeg
from jaxft.data.readers.attempts import reason_of
from jaxft.data.readers.pictures import ORIENTATION, alone_if_large, opened

FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP", ".tif": "TIFF",
    ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM",
}  # fmt: skip


def traits(content: bytes, suffix: str) -> list[str]:
    """Returns what is odd about a picture that can be read, all of which `decode` sees to.

    Of 'gray', 'alpha', 'palette', '16 bits', 'CMYK', 'turned by Exif', 'several frames' and 'wrong suffix'.
    """
    with opened(content) as image:
        mode = image.mode
        holds_by_trait = {
            "gray": mode in ("1", "L", "LA", "La") or mode.startswith("I;16"),
            "alpha": mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info,
            "palette": mode in ("P", "PA"),
            "16 bits": mode.startswith("I;16") or (content[:8] == b"\x89PNG\r\n\x1a\n" and content[24:25] == b"\x10"),
            "CMYK": mode == "CMYK",
            "turned by Exif": image.getexif().get(ORIENTATION, 1) != 1,
            "several frames": getattr(image, "n_frames", 1) > 1,
            "wrong suffix": FORMATS.get(suffix.lower()) not in (None, image.format, *_related(image.format)),
        }
    return [trait for trait, holds in holds_by_trait.items() if holds]


def _related(format: str | None) -> tuple[str, ...]:
    return ("JPEG",) if format == "MPO" else ()  # as cameras write it, which is a JPEG file with more behind it


def can_find_damage() -> bool:
    """Tells whether damage is found that Pillow reads over: simplejpeg is there."""
    return fast_jpeg.simplejpeg() is not None


def damage(content: bytes) -> str:
    """Returns what libjpeg says of a JPEG file's data that Pillow reads over, or an empty string.

    It is found by simplejpeg, and nothing without it. Wrong pixels that are rightly encoded are beyond anybody.
    """
    fast = fast_jpeg.simplejpeg()
    if fast is None or not content.startswith(b"\xff\xd8"):
        return ""
    try:
        height, width, space, _ = fast.decode_jpeg_header(content)
        with alone_if_large(height * width):
            fast.decode_jpeg(content, "CMYK" if space in ("CMYK", "YCCK") else "RGB", strict=True)
    except ValueError as error:
        return reason_of(error)
    return ""
