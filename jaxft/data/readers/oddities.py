"""Unusual properties of readable images, and damage that Pillow ignores."""

from jaxft.data.readers import fast_jpeg
from jaxft.data.readers.attempts import reason_of
from jaxft.data.readers.exif import UPRIGHT, orientation_of
from jaxft.data.readers.file_names import formats_by_suffix
from jaxft.data.readers.pictures import alone_if_large, opened


def traits(content: bytes, suffix: str) -> list[str]:
    """Returns the unusual properties of a readable image, all of which `decode` handles.

    They are 'gray', 'alpha', 'palette', '16 bits', 'CMYK', 'rotated by Exif', 'several frames' and 'wrong suffix'.
    """
    with opened(content) as image:
        mode = image.mode
        holds_by_trait = {
            "gray": mode in ("1", "L", "LA", "La") or mode.startswith("I"),
            "alpha": mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info,
            "palette": mode in ("P", "PA"),
            "16 bits": mode.startswith("I") or (content[:8] == b"\x89PNG\r\n\x1a\n" and content[24:25] == b"\x10"),
            "CMYK": mode == "CMYK",
            "rotated by Exif": orientation_of(image) != UPRIGHT,
            "several frames": getattr(image, "n_frames", 1) > 1,
            "wrong suffix": formats_by_suffix().get(suffix.lower()) not in (None, *_related(image.format)),
        }
    return [trait for trait, holds in holds_by_trait.items() if holds]


def _related(format: str | None) -> tuple[str | None, ...]:
    """Returns the formats whose suffixes suit a file. An MPO file is a JPEG file that more images follow."""
    return ("JPEG", "MPO") if format in ("JPEG", "MPO") else (format,)


def can_find_damage() -> bool:
    """Returns whether `damage` can detect damage, which needs simplejpeg."""
    return fast_jpeg.simplejpeg() is not None


def damage(content: bytes) -> str:
    """Returns the warning of libjpeg about damaged JPEG data that Pillow ignores, or an empty string.

    Without simplejpeg, the result is always empty. Wrong pixels that are validly encoded cannot be detected.
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
