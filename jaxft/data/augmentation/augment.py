"""Random changes of images on the device, pure in (key, images), and the crops that are looked at in evaluation.

In training they come in timm's order: a crop, the mirror image, RandAugment, colour jitter, erasing; then mixup or
cutmix of whole batches. Pixels are uint8 between them, as between Pillow's operations.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.config import Training

ASPECT_RATIOS = (3 / 4, 4 / 3)  # of a random resized crop; Szegedy et al. 2015, section 6
ERASED_AREA = (0.02, 0.4)  # share of the image; Zhong et al. 2020, section 4.2
ERASED_RATIOS = (0.3, 1 / 0.3)
ERASING_TRIES = 10
GREY = 128  # where a moved image shows nothing, as in the code of Cubuk et al. 2019
MAX_MAGNITUDE = 30
NUM_CROPS = 10


@dataclass(frozen=True)
class Changes:
    """Which random changes are made of single images, each at its neutral value by default.

    `crop_px` is the side of what comes out; none: that of the images. `jitter` is how much brightness, contrast,
    saturation and hue vary.
    """

    crop_scale_min: float = 1.0
    crop_padding_px: int = 0
    flip: bool = False
    crop_px: int | None = None
    randaugment_ops: int = 0
    randaugment_magnitude: float = 0.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    erase_probability: float = 0.0

    @property
    def is_none(self) -> bool:
        """Tells whether nothing is changed."""
        return self == Changes()

    @property
    def has_branches(self) -> bool:
        """Tells whether chance decides what is computed of an image."""
        return self.randaugment_ops > 0 or any(self.jitter) or self.erase_probability > 0


def make_changes(training: Training) -> Changes:
    """Returns the changes of single images that are made at random."""
    return Changes(
        training.augmentation.crop.scale_min,
        training.augmentation.crop.padding_px,
        training.augmentation.flip.enabled,
        training.augmentation.crop.size_px,
        training.augmentation.randaugment.num_operations,
        training.augmentation.randaugment.magnitude if training.augmentation.randaugment.num_operations else 0.0,
        (
            training.augmentation.color_jitter.brightness,
            training.augmentation.color_jitter.contrast,
            training.augmentation.color_jitter.saturation,
            training.augmentation.color_jitter.hue,
        ),
        training.augmentation.erasing.probability,
    )


def augment(key: jax.Array, images: jax.Array, changes: Changes) -> jax.Array:
    """Returns `images: [n, h, w, c] uint8` after the changes that are asked for."""
    crop_key, flip_key = jax.random.split(key)
    size_px = changes.crop_px
    if changes.crop_scale_min < 1:
        images = resized_crop(jax.random.fold_in(crop_key, 1), images, changes.crop_scale_min, size_px)
    if changes.crop_padding_px or (size_px and images.shape[1] != size_px):
        images = random_crop(crop_key, images, changes.crop_padding_px, size_px)
    if changes.flip:
        images = flip(flip_key, images)
    if changes.has_branches:
        keys = jax.random.split(jax.random.fold_in(key, 2), len(images))
        images = over_images(lambda own, image: _change(own, image, changes), keys, images)
    return images


def _change(key: jax.Array, image: jax.Array, changes: Changes) -> jax.Array:
    """Returns `image: [h, w, c]` after those changes that chance decides between."""
    rand_key, jitter_key, erase_key = jax.random.split(key, 3)
    if changes.randaugment_ops:
        image = rand_augment(rand_key, image, changes.randaugment_ops, changes.randaugment_magnitude)
    if any(changes.jitter):
        image = colour_jitter(jitter_key, image, changes.jitter)
    if changes.erase_probability:
        image = random_erasing(erase_key, image, changes.erase_probability)
    return image


def over_images(function: Callable[..., Any], *arrays: jax.Array) -> Any:
    """Returns `function` of each image, [n, ...].

    On a CPU it is one image after another, so that of several branches one is computed; elsewhere side by side, which
    computes all of them and selects.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda own: function(*own), arrays)
    return jax.vmap(function)(*arrays)


def view(key: jax.Array, images: jax.Array, rows: jax.Array, views: jax.Array, changes: Changes) -> jax.Array:
    """Returns, of each of `images: [n, h, w, c] uint8`, the view that its number in `views: [n]` names.

    View 0 is the image itself, or its centre where the changes crop; the others are what `changes` make of it, drawn
    from the key, the number of the view and the image's row in its set: the same whenever it is asked for.
    """

    def change(image: jax.Array, row: jax.Array, number: jax.Array) -> jax.Array:
        own = jax.random.fold_in(jax.random.fold_in(key, number), row)
        itself = centre_crop(image[None], changes.crop_px)[0]
        return jnp.where(number == 0, itself, augment(own, image[None], changes)[0])

    if changes.has_branches:
        return over_images(change, images, rows, views)
    return jax.vmap(change)(images, rows, views)


# --- crops and mirror images ------------------------------------------------------------------------------------


def random_crop(key: jax.Array, images: jax.Array, padding_px: int = 0, size_px: int | None = None) -> jax.Array:
    """Returns a random square of side `size_px` of each of `images: [n, h, w, c]`; none: of the image's own size.

    Zeros are added on all sides first, `padding_px` of them; offsets are uniform, one pair an image: with padding the
    crop of He et al. 2016, section 4.2 (there 4 pixels at 32), of larger images that of Krizhevsky et al. 2012,
    section 4.1 (there 224 of 256).
    """
    n, height, width, channels = images.shape
    out = (height, width) if size_px is None else (size_px, size_px)
    border = (padding_px, padding_px)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))
    ends = [whole - part + 1 for whole, part in zip(padded.shape[1:3], out)]
    offsets = jax.random.randint(key, (n, 2), 0, jnp.broadcast_to(jnp.array([ends]), (n, 2)))

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (*out, channels))

    return jax.vmap(crop)(padded, offsets)


def resized_crop(key: jax.Array, images: jax.Array, scale_min: float, size_px: int | None = None) -> jax.Array:
    """Returns a random part of each of `images: [n, h, w, c] uint8`, resized to a square of side `size_px`, bilinear.

    The part's share of the area is uniform in [scale_min, 1], its aspect ratio log-uniform in [3/4, 4/3], its place
    uniform (Szegedy et al. 2015, section 6, there with a share from 0.08). A part that would be wider or higher than
    the image is cut to the image's own width or height; torchvision draws anew up to ten times instead. Without
    `size_px` the part becomes as large as the image.
    """
    n, height, width, _ = images.shape
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, (n,), minval=scale_min, maxval=1.0, dtype=jnp.float32)
    low, high = ASPECT_RATIOS
    ratio = jnp.exp(jax.random.uniform(ratio_key, (n,), minval=jnp.log(low), maxval=jnp.log(high), dtype=jnp.float32))
    shares = jnp.minimum(jnp.stack([jnp.sqrt(area / ratio), jnp.sqrt(area * ratio)], axis=1), 1.0)  # height, width
    sides = jnp.asarray([[height, width]], jnp.float32)
    first = jax.random.uniform(place_key, (n, 2), dtype=jnp.float32) * (1 - shares) * sides
    out = (height, width) if size_px is None else (size_px, size_px)

    resized = jax.vmap(functools.partial(resized_part, out=out))(images, first, shares * sides)
    return jnp.clip(jnp.round(resized), 0, 255).astype(images.dtype)


def resized_part(image: jax.Array, first: jax.Array, length: jax.Array, out: tuple[int, int]) -> jax.Array:
    """Returns the part of `image: [h, w, c]` that begins at `first: [2]` and is `length: [2]` pixels long, resized.

    Bilinear with antialiasing, as Pillow's `resize` with a box: within the image, pixels beside the part weigh in at
    its border. The result, [*out, c] float32, is not rounded; Pillow rounds between rows and columns, and so differs by
    less than 1.01 grey levels. A row or a column is a sum of the few that it lies between, which takes a CPU a tenth of
    the time of a product with the matrix of all weights.
    """
    rows, by_row = _taps(first[0], length[0], image.shape[0], out[0])
    columns, by_column = _taps(first[1], length[1], image.shape[1], out[1])
    image = sum(image[r].astype(jnp.float32) * w[:, None, None] for r, w in zip(rows, by_row))
    return sum(image[:, c] * w[None, :, None] for c, w in zip(columns, by_column))


def _taps(first: jax.Array, length: jax.Array, size: int, out: int) -> tuple[jax.Array, jax.Array]:
    """Returns which of `size` pixels each of `out` is made of, and how much of each: [taps, out] int32 and float32."""
    widest = max(size / out, 1.0)  # half the base of the triangle, in pixels, where the part is the whole
    num_taps = 2 if widest == 1 else math.floor(2 * widest) + 1
    step = length / out
    centre = first + (jnp.arange(out, dtype=jnp.float32) + 0.5) * step
    support = jnp.maximum(step, 1.0)
    taps = jnp.floor(centre - support + 0.5).astype(jnp.int32)[None] + jnp.arange(num_taps)[:, None]
    inside = ((taps >= 0) & (taps < size)).astype(jnp.float32)
    weights = jnp.maximum(1 - jnp.abs(taps.astype(jnp.float32) + 0.5 - centre[None]) / support, 0) * inside
    return jnp.clip(taps, 0, size - 1), weights / weights.sum(0, keepdims=True)


def flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Returns `images: [n, h, w, c]`, each mirrored left to right with probability one half."""
    mirrored = jax.random.bernoulli(key, jnp.float32(0.5), (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def centre_crop(images: jax.Array, size_px: int | None) -> jax.Array:
    """Returns the square of side `size_px` in the middle of each of `images: [n, h, w, c]`; none: the whole image."""
    if size_px is None:
        return images
    top, left = ((side - size_px) // 2 for side in images.shape[1:3])
    return images[:, top : top + size_px, left : left + size_px]


def ten_crops(images: jax.Array, size_px: int) -> jax.Array:
    """Returns [n, 10, size_px, size_px, c]: corners and centre of `images: [n, h, w, c]`, then their mirror images.

    Krizhevsky et al. 2012, section 4.1.
    """
    down, right = (side - size_px for side in images.shape[1:3])
    corners = [images[:, y : y + size_px, x : x + size_px] for y in (0, down) for x in (0, right)]
    five = jnp.stack([*corners, centre_crop(images, size_px)], axis=1)
    return jnp.concatenate([five, five[:, :, :, ::-1]], axis=1)


# --- operations on one image, as Pillow's -----------------------------------------------------------------------


def blend(one: jax.Array, other: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns one + factor * (other - one) as uint8, cut at 0 and 255 and to whole levels (Pillow's `Image.blend`)."""
    one = one.astype(jnp.float32)
    return jnp.clip(one + factor * (other.astype(jnp.float32) - one), 0, 255).astype(jnp.uint8)


def luminance(image: jax.Array) -> jax.Array:
    """Returns [h, w, 1] int32, the grey level of `image: [h, w, 3] uint8` (ITU-R 601-2, as Pillow's mode 'L')."""
    red, green, blue = (image[..., i : i + 1].astype(jnp.int32) for i in range(3))
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def adjust_brightness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8` with its brightness times `factor` (`ImageEnhance.Brightness`)."""
    return blend(jnp.zeros_like(image), image, factor)


def adjust_contrast(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8`, `factor` times as far from its mean grey level (`ImageEnhance.Contrast`)."""
    grey = luminance(image)
    mean = (2 * grey.sum() + grey.size) // (2 * grey.size)
    return blend(jnp.full_like(image, mean), image, factor)


def adjust_saturation(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8`, `factor` times as far from its own grey levels (`ImageEnhance.Color`)."""
    return blend(luminance(image), image, factor)


def adjust_sharpness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8`, `factor` times as far from its smoothed self (`ImageEnhance.Sharpness`)."""
    height, width, _ = image.shape
    x = image.astype(jnp.int32)
    around = sum(x[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3))
    smooth = (2 * (around + 4 * x[1:-1, 1:-1]) + 13) // 26  # the kernel's sum is 13; rounded
    return blend(x.at[1:-1, 1:-1].set(smooth), image, factor)


def adjust_hue(image: jax.Array, shift: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8` with its hue in HSV moved by `shift`, as a share of the whole circle.

    Smith 1978; torchvision's `adjust_hue` for tensors, where ours rounds to the nearest level.
    """
    red, green, blue = (image[..., i].astype(jnp.float32) for i in range(3))
    value, least = image.max(-1).astype(jnp.float32), image.min(-1).astype(jnp.float32)
    chroma = value - least
    per = 1 / jnp.maximum(chroma, 1)
    sextant = jnp.where(
        value == red,
        (green - blue) * per,
        jnp.where(value == green, 2 + (blue - red) * per, 4 + (red - green) * per),
    )
    turned = sextant + 6 * shift
    channels = []
    for offset in (5, 3, 1):
        k = jnp.mod(turned + offset, 6)
        channels.append(value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1))
    return jnp.round(jnp.stack(channels, axis=-1)).astype(jnp.uint8)


def autocontrast(image: jax.Array) -> jax.Array:
    """Returns `image: [h, w, c] uint8` with each channel stretched to 0 and 255 (`ImageOps.autocontrast`)."""
    x = image.astype(jnp.int32)
    low, high = x.min((0, 1), keepdims=True), x.max((0, 1), keepdims=True)
    return jnp.where(high > low, (x - low) * 255 // jnp.maximum(high - low, 1), x).astype(jnp.uint8)


def equalize(image: jax.Array) -> jax.Array:
    """Returns `image: [h, w, c] uint8` with the levels of each channel spread evenly (`ImageOps.equalize`)."""

    def channel(x: jax.Array) -> jax.Array:
        counts = jnp.zeros(256, jnp.int32).at[x.reshape(-1)].add(1)
        step = (x.size - counts[x.max()]) // 255
        below = jnp.cumsum(counts) - counts
        table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255).astype(jnp.uint8)
        return jnp.where(step > 0, table[x], x)

    return jnp.stack([channel(image[..., i]) for i in range(image.shape[-1])], axis=-1)


def posterize(image: jax.Array, bits: int) -> jax.Array:
    """Returns `image` uint8 with the highest `bits` bits of each value (`ImageOps.posterize`)."""
    return image & jnp.uint8(256 - (1 << (8 - bits)))


def solarize(image: jax.Array, threshold: float) -> jax.Array:
    """Returns `image` uint8, values from `threshold` on inverted (`ImageOps.solarize`)."""
    return jnp.where(image.astype(jnp.float32) >= threshold, 255 - image, image)


def affine(image: jax.Array, matrix: tuple[Any, Any, Any, Any, Any, Any]) -> jax.Array:
    """Returns `image: [h, w, c] uint8` moved: at (x, y) is what was at (a x + b y + c, d x + e y + f), or grey.

    The nearest pixel is taken, the middle of pixels being at halves: Pillow's `Image.transform` with `AFFINE`.
    """
    height, width, channels = image.shape
    x, y = (jnp.arange(size, dtype=jnp.float32) + 0.5 for size in (width, height))
    x, y = x[None], y[:, None]
    a, b, c, d, e, f = matrix
    column, row = (jnp.floor(at).astype(jnp.int32) for at in (a * x + b * y + c, d * x + e * y + f))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = jnp.where(inside, row * width + column, 0)
    return jnp.where(inside[..., None], image.reshape(-1, channels)[place], jnp.uint8(GREY))


def rotate(image: jax.Array, degrees: jax.Array | float) -> jax.Array:
    """Returns `image: [h, w, c] uint8` turned about its centre, counter-clockwise (Pillow's `Image.rotate`)."""
    angle = -jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y, x = image.shape[0] / 2, image.shape[1] / 2
    return affine(image, (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y))


# --- RandAugment, jitter, erasing -------------------------------------------------------------------------------


# Each of (image, level in [0, 1], sign) with the ranges of Cubuk et al. 2019 (AutoAugment), table 6; the list is that
# of Cubuk et al. 2020, section 3.
RANDAUGMENT: dict[str, Callable[[jax.Array, float, jax.Array], jax.Array]] = {
    "identity": lambda image, level, sign: image,
    "autocontrast": lambda image, level, sign: autocontrast(image),
    "equalize": lambda image, level, sign: equalize(image),
    "rotate": lambda image, level, sign: rotate(image, sign * 30 * level),
    "solarize": lambda image, level, sign: solarize(image, 255 * (1 - level)),
    "color": lambda image, level, sign: adjust_saturation(image, 1 + sign * 0.9 * level),
    "posterize": lambda image, level, sign: posterize(image, 8 - round(4 * level)),
    "contrast": lambda image, level, sign: adjust_contrast(image, 1 + sign * 0.9 * level),
    "brightness": lambda image, level, sign: adjust_brightness(image, 1 + sign * 0.9 * level),
    "sharpness": lambda image, level, sign: adjust_sharpness(image, 1 + sign * 0.9 * level),
    "shear_x": lambda image, level, sign: affine(image, (1, sign * 0.3 * level, 0, 0, 1, 0)),
    "shear_y": lambda image, level, sign: affine(image, (1, 0, 0, sign * 0.3 * level, 1, 0)),
    "translate_x": lambda image, level, sign: affine(
        image, (1, 0, sign * int(level * 150 / 331 * image.shape[1]), 0, 1, 0)
    ),
    "translate_y": lambda image, level, sign: affine(
        image, (1, 0, 0, 0, 1, sign * int(level * 150 / 331 * image.shape[0]))
    ),
}


def rand_augment(key: jax.Array, image: jax.Array, num_ops: int, magnitude: float) -> jax.Array:
    """Returns `image: [h, w, 3] uint8` after `num_ops` operations, drawn with replacement, of one magnitude.

    RandAugment (Cubuk et al. 2020, section 3). The magnitude is from 0 to 30, the ends of AutoAugment's ranges, as in
    torchvision; the authors' code and timm count to 10. What has two directions takes either with probability one half.
    Pixels that come from outside are grey.
    """
    level = magnitude / MAX_MAGNITUDE
    operations = [lambda image, sign, op=op: op(image, level, sign) for op in RANDAUGMENT.values()]

    def one(image: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        which_key, sign_key = jax.random.split(key)
        which = jax.random.randint(which_key, (), 0, len(operations))
        sign = jnp.where(jax.random.bernoulli(sign_key, jnp.float32(0.5)), 1.0, -1.0)
        return jax.lax.switch(which, operations, image, sign), None

    return jax.lax.scan(one, image, jax.random.split(key, num_ops))[0]


def colour_jitter(key: jax.Array, image: jax.Array, jitter: tuple[float, float, float, float]) -> jax.Array:
    """Returns `image: [h, w, 3] uint8` with brightness, contrast, saturation and hue changed, in a random order.

    Factors of the first three are uniform in [max(0, 1 - jitter), 1 + jitter], the shift of the hue is in
    [-jitter, jitter] of the circle: torchvision's `ColorJitter`. What does not vary is left out of the order.
    """
    every = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    order_key, *keys = jax.random.split(key, 1 + len(every))
    operations, factors = [], []
    for operation, own, amount in zip(every, keys, jitter):
        if amount:
            low, high = (-amount, amount) if operation is adjust_hue else (max(0.0, 1 - amount), 1 + amount)
            operations.append(operation)
            factors.append(jax.random.uniform(own, minval=low, maxval=high, dtype=jnp.float32))

    def one(image: jax.Array, which: jax.Array) -> tuple[jax.Array, None]:
        return jax.lax.switch(which, operations, image, jnp.stack(factors)[which]), None

    return jax.lax.scan(one, image, jax.random.permutation(order_key, len(operations)))[0]


def random_erasing(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """Returns `image: [h, w, c <= 4] uint8`, a rectangle of it filled with random values, with a probability.

    Random erasing (Zhong et al. 2020, algorithm 1, "RE-R"): the rectangle's share of the area is uniform in
    [0.02, 0.4], its values are uniform in [0, 255]. Its aspect ratio is log-uniform in [0.3, 1/0.3], as in timm and
    torchvision (in the paper uniform); of ten draws the first counts that fits.
    """
    height, width, channels = image.shape
    whether_key, area_key, ratio_key, place_key, value_key = jax.random.split(key, 5)
    area = jax.random.uniform(
        area_key, (ERASING_TRIES,), minval=ERASED_AREA[0], maxval=ERASED_AREA[1], dtype=jnp.float32
    )
    low, high = map(math.log, ERASED_RATIOS)
    ratio = jnp.exp(jax.random.uniform(ratio_key, (ERASING_TRIES,), minval=low, maxval=high, dtype=jnp.float32))
    area = area * (height * width)
    sides = jnp.round(jnp.stack([jnp.sqrt(area * ratio), jnp.sqrt(area / ratio)], axis=1)).astype(jnp.int32)
    fits = (sides < jnp.array([[height, width]])).all(1)
    side = sides[fits.argmax()]
    room = (jnp.array([height, width]) - side + 1).astype(jnp.float32)
    first = jnp.floor(jax.random.uniform(place_key, (2,), dtype=jnp.float32) * room).astype(jnp.int32)

    def erase(image: jax.Array) -> jax.Array:
        row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
        inside = (row >= first[0]) & (row < first[0] + side[0]) & (column >= first[1]) & (column < first[1] + side[1])
        bits = jax.random.bits(value_key, (height, width, 1))  # 32 of them, a byte for each channel
        values = (bits >> (8 * jnp.arange(channels, dtype=jnp.uint32)).reshape(1, 1, -1)).astype(image.dtype)
        return jnp.where(inside, values, image)

    is_erased = jax.random.bernoulli(whether_key, jnp.float32(probability)) & fits.any()
    return jax.lax.cond(is_erased, erase, lambda image: image, image)


# --- whole batches ----------------------------------------------------------------------------------------------


def mix(key: jax.Array, images: jax.Array, alphas: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns `images: [n, h, w, c]`, each mixed with another of the batch, as float32, and its own share of the label.

    'mixup' (Zhang et al. 2018, eq. 1): a share of every pixel; 'cutmix' (Yun et al. 2019, section 3.1): a rectangle of
    the other. The share is drawn once a batch, from Beta(alpha, alpha) with the alpha of `alphas`; where both are
    there, each is taken with probability one half. A rectangle that reaches beyond the border is cut, and the share is
    that of the pixels left. As in timm the other of the image i is the last but i: batches are in random order.
    """
    which_key, share_key, place_key = jax.random.split(key, 3)
    height, width = images.shape[1:3]
    kept = {}
    for name, alpha in alphas.items():
        share = jax.random.beta(share_key, alpha, alpha, dtype=jnp.float32)
        whole = jnp.full((height, width), share)
        kept[name] = _outside_box(place_key, share, height, width) if name == "cutmix" else whole
    own, *other = kept.values()
    if other:
        own = jnp.where(jax.random.bernoulli(which_key, jnp.float32(0.5)), own, other[0])
    images = images.astype(jnp.float32)
    others = images[::-1]
    return others + own[None, :, :, None] * (images - others), own.mean()


def _outside_box(key: jax.Array, share: jax.Array, height: int, width: int) -> jax.Array:
    """Returns [h, w] float32: 0 in a box of the share 1 - `share` of the area about a random pixel, 1 outside."""
    centre = jax.random.uniform(key, (2,), dtype=jnp.float32)
    outside = []
    for at, size in zip(centre, (height, width)):
        side = jnp.floor(size * jnp.sqrt(1 - share))
        first = jnp.floor(at * size) - jnp.floor(side / 2)
        pixels = jnp.arange(size, dtype=jnp.float32)
        outside.append((pixels < first) | (pixels >= first + side))
    return (outside[0][:, None] | outside[1][None]).astype(jnp.float32)
