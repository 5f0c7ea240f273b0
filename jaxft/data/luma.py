"""The luma of a pixel: its gray level."""

from typing import Any


def luma(image: Any) -> Any:
    """Returns [..., 1] int32, the gray level of `image: [..., 3] uint8`, an array of NumPy's or JAX's.

    The weights are those of ITU-R 601-2, in the fixed point and with the rounding of Pillow's mode 'L'.
    """
    red, green, blue = (image[..., channel : channel + 1].astype("int32") for channel in range(3))
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
