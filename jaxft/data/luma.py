"""Luma: conversion from RGB to gray levels."""

from typing import Any


def luma(image: Any) -> Any:
    """Returns the gray levels [..., 1] int32 of `image: [..., 3] uint8`, an array of NumPy or JAX.

    The weights are from ITU-R 601-2. The fixed-point arithmetic and the rounding are those of Pillow's mode 'L'.
    """
    red, green, blue = (image[..., channel : channel + 1].astype("int32") for channel in range(3))
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
