"""Augmentation: agreement with Pillow and torchvision, values by hand, and properties of the random draws."""

import colorsys
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxft.config import Training
from jaxft.core.registries import AUGMENTATIONS
from jaxft.data.augmentation import color, geometry, mixing, randaugment
from jaxft.data.augmentation.augment import Augmentations, active_augmentations, augment, over_images, view
from jaxft.data.augmentation.base import Augmentation
from jaxft.data.augmentation.color_jitter import ColorJitterConfig, color_jitter
from jaxft.data.augmentation.erasing import random_erasing
from jaxft.data.augmentation.evaluation import center_crop, ten_crops
from jaxft.data.augmentation.geometry import flip, random_crop, resized_crop, resized_region
from jaxft.data.augmentation.mixing import mix
from jaxft.data.augmentation.randaugment import RANDAUGMENT, rand_augment

FIELDS = {
    "crop.scale_min": 0.3,
    "crop.padding_px": 2,
    "crop.size_px": 24,
    "flip.enabled": True,
    "randaugment.num_operations": 2,
    "color_jitter.brightness": 0.4,
    "color_jitter.contrast": 0.4,
    "color_jitter.saturation": 0.4,
    "color_jitter.hue": 0.1,
    "erasing.probability": 0.5,
}
ALL = Augmentations.of(FIELDS)
# Compiled once for all tests.
AUGMENT = jax.jit(augment, static_argnums=2)
RESIZE = jax.jit(resized_region, static_argnums=3)
MIX = jax.jit(mix)


def picture(height=40, width=48, seed=0):
    """Returns a picture of smooth colors with noise: uint8, all levels from dark to light."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), int)
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


# --- crops and mirror images ------------------------------------------------------------------------------------


def numbered_images(n, height=4, width=5):
    """Returns float images whose pixels are all different and none zero."""
    return jnp.arange(1.0, 1 + n * height * width * 3).reshape(n, height, width, 3)


@pytest.mark.parametrize("padding", [1, 2])
def test_a_random_crop_is_a_shift_of_the_padded_image(padding):
    images = np.asarray(numbered_images(1)).repeat(600, axis=0)
    crops = np.asarray(random_crop(jax.random.key(0), jnp.asarray(images), padding))
    padded = np.zeros((4 + 2 * padding, 5 + 2 * padding, 3))
    padded[padding:-padding, padding:-padding] = images[0]
    side = 2 * padding + 1
    shifts = {padded[y : y + 4, x : x + 5].tobytes(): (y, x) for y in range(side) for x in range(side)}
    counts = dict.fromkeys(shifts.values(), 0)
    for crop in crops.astype(np.float64):
        counts[shifts[crop.tobytes()]] += 1
    # uniform: 600 / side^2 each, within five standard deviations
    expected = 600 / side**2
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_a_flip_mirrors_half_of_the_images_left_to_right():
    images = np.asarray(numbered_images(1)).repeat(1000, axis=0)
    flipped = np.asarray(flip(jax.random.key(1), jnp.asarray(images)))
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    kept = (flipped == images).all((1, 2, 3))
    assert (mirrored ^ kept).all()
    assert abs(int(mirrored.sum()) - 500) < 5 * 250**0.5


@pytest.mark.parametrize(("padding", "mirror"), [(2, True), (2, False), (0, True)])
def test_augmentation_is_pure_in_the_key(padding, mirror):
    images = numbered_images(32)
    once, again, other = (
        AUGMENT(jax.random.key(seed), images, Augmentations.of({"crop.padding_px": padding, "flip.enabled": mirror}))
        for seed in (3, 3, 4)
    )
    assert once.shape == images.shape and once.dtype == images.dtype
    assert (once == again).all()
    assert not (once == other).all()


def test_no_augmentation_is_the_identity():
    images = numbered_images(3)
    assert (augment(jax.random.key(0), images, Augmentations()) == images).all()


def test_crop_and_flip_are_drawn_independently():
    # Were one key used for both, an offset would tell whether an image is mirrored.
    images = jnp.asarray(np.asarray(numbered_images(1)).repeat(2000, axis=0))
    crop_only = AUGMENT(jax.random.key(5), images, Augmentations.of({"crop.padding_px": 1}))
    both = AUGMENT(jax.random.key(5), images, Augmentations.of({"crop.padding_px": 1, "flip.enabled": True}))
    mirrored = np.asarray((both == crop_only[:, :, ::-1]).all((1, 2, 3)))
    at_left = np.asarray((crop_only[:, 1:-1, 0] == 0).all((1, 2)))  # zeros come in from the left
    share = mirrored[at_left].mean()
    assert abs(share - 0.5) < 5 * 0.5 / at_left.sum() ** 0.5


def test_augmentation_under_vmap_equals_augmentation_of_each_trial():
    images = numbered_images(2 * 6).reshape(2, 6, 4, 5, 3)
    keys = jax.random.split(jax.random.key(0), 2)
    augmentations = Augmentations.of({"crop.padding_px": 2, "flip.enabled": True})
    together = jax.jit(jax.vmap(lambda key, x: augment(key, x, augmentations)))(keys, images)
    for i in range(2):
        assert (together[i] == AUGMENT(keys[i], images[i], augmentations)).all()


@pytest.mark.parametrize("out", [48, 32, 20])
@pytest.mark.parametrize(
    "box", [(4.0, 8.0, 36.0, 40.0), (0.0, 3.0, 25.0, 21.0), (10.5, 2.25, 47.0, 30.75), (0.0, 0.0, 48.0, 48.0)]
)
def test_a_resized_region_agrees_with_pillow(box, out):
    """To the border of the part: Pillow rounds to whole gray levels, twice."""
    image = picture(48, 48)
    left, top, right, bottom = box
    theirs = np.asarray(Image.fromarray(image).resize((out, out), Image.Resampling.BILINEAR, box=box), np.float64)
    first, length = jnp.array([top, left]), jnp.array([bottom - top, right - left])
    ours = np.asarray(RESIZE(jnp.asarray(image), first, length, (out, out)))
    assert np.abs(ours - theirs).max() <= 1.01


def test_a_resized_crop_of_a_gradient_has_the_drawn_position_and_size():
    """Of an image that rises by one a column, a part rises by its share of the width and begins inside."""
    slope = jnp.broadcast_to(jnp.arange(64.0).reshape(1, 1, 64, 1), (500, 64, 64, 3)).astype(jnp.uint8)
    crop = jax.jit(resized_crop, static_argnums=2)
    crops = np.asarray(crop(jax.random.key(2), slope, 0.25), np.float64)[:, 32, :, 0]
    width = (crops[:, 56] - crops[:, 8]) / 48
    first = crops[:, 32] - 32.5 * width
    # area from 1/4 to 1 and ratio from 3/4 to 4/3: the width is from sqrt(1/4 * 3/4) to 1
    assert width.min() > np.sqrt(3 / 16) - 0.05 and width.max() <= 1.02
    assert first.min() > -2 and (first + 64 * width).max() < 66
    assert np.std(first) > 3


def test_views_do_not_depend_on_the_batch():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)), jnp.uint8)
    augmentations, key = Augmentations.of({"crop.scale_min": 0.5, "flip.enabled": True}), jax.random.key(1)
    rows = jnp.arange(6)
    draw_views = jax.jit(view, static_argnums=4)
    whole = {number: draw_views(key, images, rows, jnp.full(6, number), augmentations) for number in range(3)}
    assert (whole[0] == images).all()
    assert not (whole[1] == whole[2]).all() and not (whole[1] == images).all()
    some = draw_views(key, images[jnp.array([4, 1])], jnp.array([4, 1]), jnp.array([2, 1]), augmentations)
    assert (some[0] == whole[2][4]).all() and (some[1] == whole[1][1]).all()


# --- crops of larger images -------------------------------------------------------------------------------------


def test_a_crop_of_a_larger_image_has_a_uniform_offset():
    """Of 6 x 6 pixels, parts of 4 x 4: nine of them, 600 / 9 each within five standard deviations."""
    image = np.arange(36.0 * 3).reshape(1, 6, 6, 3)
    crops = np.asarray(random_crop(jax.random.key(0), jnp.asarray(image.repeat(600, 0)), 0, 4), np.float64)
    parts = {image[0, y : y + 4, x : x + 4].tobytes(): 0 for y in range(3) for x in range(3)}
    for crop in crops:
        parts[crop.tobytes()] += 1
    assert all(abs(count - 600 / 9) < 5 * (600 / 9) ** 0.5 for count in parts.values())


def test_a_crop_of_a_padded_larger_image_has_zeros_in_the_padding():
    crops = np.asarray(random_crop(jax.random.key(0), jnp.ones((200, 6, 6, 3), jnp.uint8), 1, 5))
    assert crops.shape == (200, 5, 5, 3)
    # offsets 0 to 3 of 8: zeros at the top for 0, at the bottom for 3, a fourth of them each
    assert abs((crops[:, 0] == 0).all((1, 2)).mean() - 0.25) < 0.16
    assert abs((crops[:, -1] == 0).all((1, 2)).mean() - 0.25) < 0.16


def test_the_center_and_ten_crops_by_hand():
    image = jnp.arange(5.0 * 5).reshape(1, 5, 5, 1)
    assert center_crop(image, None) is image
    np.testing.assert_array_equal(center_crop(image, 3)[0, ..., 0], [[6, 7, 8], [11, 12, 13], [16, 17, 18]])
    np.testing.assert_array_equal(center_crop(image, 2)[0, ..., 0], [[6, 7], [11, 12]])  # half a pixel to the top left
    ten = np.asarray(ten_crops(image, 3))[0, ..., 0]
    assert ten.shape == (10, 3, 3)
    assert ten[:5, 0, 0].tolist() == [0, 2, 10, 12, 6]  # top left, top right, bottom left, bottom right, center
    np.testing.assert_array_equal(ten[5:], ten[:5, :, ::-1])


def test_a_resized_crop_has_the_requested_size():
    images = jnp.asarray(picture(40, 40)[None].repeat(3, 0))
    crop = jax.jit(resized_crop, static_argnums=(2, 3))
    crops = crop(jax.random.key(0), images, 0.5, 24)
    assert crops.shape == (3, 24, 24, 3) and crops.dtype == jnp.uint8
    whole = crop(jax.random.key(0), images, 1.0, 24)  # of ratio 3/4 to 4/3, which is cut to the image
    assert whole.shape == (3, 24, 24, 3)


# --- operations against Pillow ----------------------------------------------------------------------------------


def assert_levels(ours, theirs, most=1, share=0.99):
    """Asserts that levels differ by `most` at most, and that a share of them is the same."""
    difference = np.abs(np.asarray(ours, int) - np.asarray(theirs, int))
    assert difference.max() <= most and (difference == 0).mean() >= share, (difference.max(), (difference == 0).mean())


ENHANCERS = {
    color.adjust_brightness: ImageEnhance.Brightness,
    color.adjust_contrast: ImageEnhance.Contrast,
    color.adjust_saturation: ImageEnhance.Color,
    color.adjust_sharpness: ImageEnhance.Sharpness,
}


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.73, 1.0, 1.27, 1.9])
@pytest.mark.parametrize("ours", ENHANCERS, ids=lambda function: function.__name__)
def test_enhancers_agree_with_pillow(ours, factor):
    image = picture()
    assert_levels(jax.jit(ours)(jnp.asarray(image), factor), ENHANCERS[ours](Image.fromarray(image)).enhance(factor))


@pytest.mark.parametrize("image", [picture(), picture() // 3 + 40, np.full((8, 8, 3), 7, np.uint8)], ids=str)
def test_autocontrast_and_equalize_agree_with_pillow(image):
    pillow = Image.fromarray(image)
    assert_levels(jax.jit(color.autocontrast)(jnp.asarray(image)), ImageOps.autocontrast(pillow))
    assert_levels(jax.jit(color.equalize)(jnp.asarray(image)), ImageOps.equalize(pillow), most=0)


@pytest.mark.parametrize("level", [0.0, 0.3, 0.5, 1.0])
def test_posterize_and_solarize_agree_with_pillow(level):
    image = picture()
    sign = jnp.float32(1)
    theirs = ImageOps.posterize(Image.fromarray(image), 8 - round(4 * level))
    assert_levels(RANDAUGMENT["posterize"](jnp.asarray(image), level, sign), theirs, most=0)
    theirs = ImageOps.solarize(Image.fromarray(image), 255 * (1 - level))
    assert_levels(RANDAUGMENT["solarize"](jnp.asarray(image), level, sign), theirs, most=0)


GRAY = (geometry.GRAY,) * 3


def moved(image, matrix):
    return Image.fromarray(image).transform(
        image.shape[1::-1], Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=GRAY
    )


@pytest.mark.parametrize("level", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_affine_operations_agree_with_pillow(level, sign):
    """The nearest pixel may differ if a coordinate is on the border of two pixels: at most one pixel in a hundred."""
    image = picture(40, 48)
    across, down = (int(level * 150 / 331 * side) for side in (48, 40))
    theirs = {
        "shear_x": moved(image, (1, sign * 0.3 * level, 0, 0, 1, 0)),
        "shear_y": moved(image, (1, 0, 0, sign * 0.3 * level, 1, 0)),
        "translate_x": moved(image, (1, 0, sign * across, 0, 1, 0)),
        "translate_y": moved(image, (1, 0, 0, 0, 1, sign * down)),
        "rotate": Image.fromarray(image).rotate(sign * 30 * level, Image.Resampling.NEAREST, fillcolor=GRAY),
    }
    for name, expected in theirs.items():
        ours = np.asarray(jax.jit(RANDAUGMENT[name], static_argnums=1)(jnp.asarray(image), level, jnp.float32(sign)))
        same = (ours == np.asarray(expected)).all(-1)
        assert same.mean() >= 0.99, (name, same.mean())


@pytest.mark.parametrize("shift", [-0.5, -0.13, 0.0, 0.21, 0.5])
def test_a_hue_shift_agrees_with_colorsys(shift):
    image = np.concatenate([picture(6, 8).reshape(-1, 3), [[0, 0, 0], [255] * 3, [9, 9, 9], [255, 0, 0], [0, 0, 1]]])
    ours = np.asarray(color.adjust_hue(jnp.asarray(image[None], jnp.uint8), shift))[0]
    for pixel, turned in zip(image, ours):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        expected = 255 * np.array(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value))
        assert np.abs(turned - expected).max() <= 0.51


# --- RandAugment, jitter, erasing -------------------------------------------------------------------------------


def test_randaugment_has_the_operations_of_the_paper():
    assert len(RANDAUGMENT) == 14
    image = jnp.asarray(picture())
    every = jax.jit(
        lambda level, sign: {name: op(image, level, sign) for name, op in RANDAUGMENT.items()}, static_argnums=0
    )
    neutral = every(0.0, jnp.float32(1))
    for name, out in every(0.5, jnp.float32(-1)).items():
        assert out.shape == image.shape and out.dtype == jnp.uint8, name
        if name not in ("autocontrast", "equalize", "solarize"):  # which know no magnitude, or begin with the lightest
            assert (neutral[name] == image).all(), name


def test_randaugment_draws_all_operations_equally_often(monkeypatch):
    """Operations that say who they are: 14 of them, two signs, over 2,000 images of one operation each."""

    def says(i):
        return lambda image, level, sign: image + jnp.uint8(2 * i) + (sign > 0).astype(jnp.uint8)

    named = {name: says(i) for i, name in enumerate(RANDAUGMENT)}
    monkeypatch.setattr(randaugment, "RANDAUGMENT", named)
    keys = jax.random.split(jax.random.key(0), 2000)
    black = jnp.zeros((1, 1, 3), jnp.uint8)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: rand_augment(key, black, 1, 9.0)))(keys))
    counts = np.bincount(drawn[:, 0, 0, 0], minlength=28)
    assert len(counts) == 28 and np.abs(counts - 2000 / 28).max() < 5 * (2000 / 28) ** 0.5


def test_randaugment_applies_one_operation_after_another(monkeypatch):
    monkeypatch.setattr(
        randaugment, "RANDAUGMENT", {"add": lambda image, level, sign: image + jnp.uint8(round(10 * level))}
    )
    image = jnp.zeros((2, 2, 3), jnp.uint8)
    assert (rand_augment(jax.random.key(0), image, 3, 12.0) == 12).all()  # three times 10 * 12 / 30


def test_jitter_draws_its_factors_within_their_ranges():
    """A gray image's brightness alone shows the factor: uniform in [0.6, 1.4]."""
    image = jnp.full((2, 2, 3), 100, jnp.uint8)
    keys = jax.random.split(jax.random.key(0), 1000)
    bright = np.asarray(
        jax.jit(jax.vmap(lambda key: color_jitter(key, image, ColorJitterConfig(0.4, 0.0, 0.0, 0.0))))(keys)
    )[:, 0, 0, 0]
    assert bright.min() in (60, 61) and bright.max() in (138, 139, 140)
    assert abs(bright.mean() - 99.5) < 5 * 0.8 * 100 / math.sqrt(12 * 1000)  # whole levels: half of one is cut off
    dark = np.asarray(
        jax.jit(jax.vmap(lambda key: color_jitter(key, image, ColorJitterConfig(3.0, 0.0, 0.0, 0.0))))(keys)
    )
    assert dark.min() == 0 and dark.max() == 255  # factors from max(0, 1 - 3) to 4


def test_jitter_applies_its_operations_in_random_order():
    """Brightness and contrast of an image of two levels: where white is cut off, the orders differ; both are drawn."""
    image = jnp.concatenate([jnp.full((2, 2, 3), 40, jnp.uint8), jnp.full((2, 2, 3), 220, jnp.uint8)])
    jitter = jax.jit(lambda key: color_jitter(key, image, ColorJitterConfig(0.9, 0.9, 0.0, 0.0)))
    seen = set()
    for seed in range(12):
        key = jax.random.key(seed)
        keys = jax.random.split(key, 5)[1:3]
        bright, contrast = (float(jax.random.uniform(own, minval=0.1, maxval=1.9)) for own in keys)
        pillow = Image.fromarray(np.asarray(image))
        one = ImageEnhance.Contrast(ImageEnhance.Brightness(pillow).enhance(bright)).enhance(contrast)
        other = ImageEnhance.Brightness(ImageEnhance.Contrast(pillow).enhance(contrast)).enhance(bright)
        ours = np.asarray(jitter(key), int)
        near = [np.abs(ours - np.asarray(theirs, int)).max() <= 1 for theirs in (one, other)]
        assert any(near)
        if near[0] != near[1]:
            seen.add(near[0])
    assert seen == {True, False}


def test_erasing_fills_a_rectangle_of_an_area_in_its_range():
    """Of 40 x 48 pixels; sides are rounded, so an area is off by less than half of each side."""
    image = jnp.zeros((40, 48, 3), jnp.uint8)
    keys = jax.random.split(jax.random.key(0), 400)
    erased = np.asarray(jax.jit(jax.vmap(lambda key: random_erasing(key, image, 0.5)))(keys))
    touched = (erased != 0).any(-1)
    changed = touched.any((1, 2))
    assert abs(changed.mean() - 0.5) < 5 * 0.5 / 20
    areas, ratios = [], []
    for mask in touched[changed]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        # of 3 bytes a pixel, all zero is one in 16.8 million: the rectangle is whole
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all() and mask.sum() == height * width
        areas.append(height * width / (40 * 48))
        ratios.append(height / width)
    assert min(areas) > 0.012 and max(areas) < 0.43 and max(areas) > 0.35
    assert min(ratios) > 0.25 and max(ratios) < 4 and min(ratios) < 0.5 and max(ratios) > 2
    values = erased[changed][touched[changed]]
    assert abs(values.mean() - 127.5) < 1 and values.min() == 0 and values.max() == 255


def test_erasing_with_probability_zero_and_one():
    image = jnp.asarray(picture())
    erase = jax.jit(random_erasing)
    assert (erase(jax.random.key(0), image, 0.0) == image).all()
    assert all((erase(jax.random.key(seed), image, 1.0) != image).any() for seed in range(5))


# --- all of them ------------------------------------------------------------------------------------------------


def test_a_config_gives_the_active_augmentations_in_order():
    assert Augmentations.of({"randaugment.magnitude": 5.0}).is_empty
    assert [name for name, _ in ALL.active] == ["crop", "flip", "randaugment", "color_jitter", "erasing"]
    training = Training.of({f"augmentation.{name}": value for name, value in FIELDS.items()})
    assert active_augmentations(training.augmentation) == ALL and ALL.crop_px == 24
    assert not Augmentations.of({"crop.size_px": 24, "flip.enabled": True}).has_branches and ALL.has_branches


@pytest.mark.parametrize("per_image", [False, True])
def test_an_augmentation_is_a_function_and_a_registry_line(per_image, monkeypatch):
    """One that is registered later is applied after the built-ins, and leaves their draws as they are."""
    monkeypatch.setattr(AUGMENTATIONS, "entries", dict(AUGMENTATIONS.items()))

    def darken(key, x, options):
        return jnp.where(jax.random.bernoulli(key, jnp.float32(0.5)), x // options, x)

    AUGMENTATIONS.register("darken", Augmentation(darken, per_image, is_active=bool), help="half as bright")
    usual = Augmentations.of({"flip.enabled": True})
    images = jnp.asarray(np.stack([picture(8, 8, seed) for seed in range(16)]))
    before = np.asarray(augment(jax.random.key(1), images, usual))
    after = np.asarray(augment(jax.random.key(1), images, Augmentations((*usual.active, ("darken", 2)))))
    halved = [np.array_equal(one, other // 2) for one, other in zip(after, before)]
    same = [np.array_equal(one, other) for one, other in zip(after, before)]
    assert all(one != other for one, other in zip(halved, same))
    assert (0 < sum(halved) < 16) if per_image else sum(halved) in (0, 16)


@pytest.mark.slow
def test_all_augmentations_together_are_pure_in_the_key_and_equal_under_vmap():
    images = jnp.asarray(np.stack([picture(32, 32, seed) for seed in range(4)]))
    once, again, other = (AUGMENT(jax.random.key(seed), images, ALL) for seed in (3, 3, 4))
    assert once.shape == (4, 24, 24, 3) and once.dtype == jnp.uint8
    assert (once == again).all() and not (once == other).all()
    assert len({np.asarray(image).tobytes() for image in once}) == 4
    keys = jax.random.split(jax.random.key(9), 2)
    together = jax.jit(jax.vmap(lambda key: augment(key, images, ALL)))(keys)
    for i in range(2):
        assert_levels(together[i], AUGMENT(keys[i], images, ALL), share=0.999)


@pytest.mark.slow
def test_sequential_and_vectorized_augmentation_are_equal(monkeypatch):
    images = jnp.asarray(np.stack([picture(32, 32, seed) for seed in range(4)]))
    one = AUGMENT(jax.random.key(0), images, ALL)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    other = jax.jit(lambda key: augment(key, images, ALL))(jax.random.key(0))
    assert_levels(other, one, share=0.999)


def test_over_images_takes_several_arrays():
    sums = over_images(lambda x, y: (x + y, x), jnp.arange(3), jnp.ones(3, jnp.int32))
    assert sums[0].tolist() == [1, 2, 3] and sums[1].tolist() == [0, 1, 2]


@pytest.mark.slow
def test_view_zero_is_the_center_crop():
    images = jnp.asarray(np.stack([picture(32, 32, seed) for seed in range(3)]))
    rows, numbers = jnp.array([7, 2, 5]), jnp.array([0, 1, 2])
    run = jax.jit(view, static_argnums=4)
    seen = run(jax.random.key(0), images, rows, numbers, ALL)
    assert (seen[0] == images[0, 4:28, 4:28]).all()
    backwards = run(jax.random.key(0), images[::-1], rows[::-1], numbers[::-1], ALL)
    assert (backwards[::-1] == seen).all()  # a view does not depend on its neighbors


# --- mixup and cutmix -------------------------------------------------------------------------------------------


def batch_of_levels():
    """Returns four images of 12 x 10 pixels, each of one level: 0, 10, 40, 200."""
    return jnp.broadcast_to(jnp.array([0, 10, 40, 200], jnp.uint8).reshape(4, 1, 1, 1), (4, 12, 10, 3))


def test_mixup_by_hand():
    """With share s, images of levels a and d become s a + (1 - s) d: 200 (1 - s), 10 s + 40 (1 - s), ..."""
    mixed, own = MIX(jax.random.key(0), batch_of_levels(), {"mixup": jnp.float32(0.4)})
    s = float(own)
    assert 0 <= s <= 1 and mixed.dtype == jnp.float32
    expected = [200 * (1 - s), 10 * s + 40 * (1 - s), 40 * s + 10 * (1 - s), 200 * s]
    np.testing.assert_allclose(mixed, jnp.broadcast_to(jnp.array(expected).reshape(4, 1, 1, 1), mixed.shape), rtol=1e-5)


def test_cutmix_pastes_a_rectangle_and_returns_the_remaining_fraction():
    for seed in range(20):
        mixed, own = MIX(jax.random.key(seed), batch_of_levels(), {"cutmix": jnp.float32(1.0)})
        pasted = np.asarray(mixed[0] == 200).all(-1)
        assert ((np.asarray(mixed[0]) == 0).all(-1) | pasted).all()
        assert float(own) == pytest.approx(1 - pasted.mean(), abs=1e-6)
        rows, columns = np.flatnonzero(pasted.any(1)), np.flatnonzero(pasted.any(0))
        assert pasted.sum() == len(rows) * len(columns)  # a rectangle
        assert not len(rows) or np.ptp(rows) + 1 == len(rows)
        np.testing.assert_array_equal(np.asarray(mixed[1] == 40).all(-1), pasted)
        np.testing.assert_array_equal(np.asarray(mixed[3] == 0).all(-1), pasted)


@pytest.mark.slow
def test_mixing_weights_have_the_beta_distribution():
    """Of Beta(a, a) mean and variance are 1/2 and 1 / (4 (2 a + 1))."""
    keys = jax.random.split(jax.random.key(0), 2000)
    share = jax.jit(jax.vmap(lambda key, alpha: mix(key, batch_of_levels(), {"mixup": alpha})[1], (0, None)))
    for alpha in (0.2, 1.0):
        own = share(keys, jnp.float32(alpha))
        variance = 1 / (4 * (2 * alpha + 1))
        assert abs(float(own.mean()) - 0.5) < 5 * math.sqrt(variance / 2000)
        assert float(own.var()) == pytest.approx(variance, rel=0.1)


@pytest.mark.slow
def test_mixup_and_cutmix_together_get_half_of_the_batches_each():
    alphas = {"mixup": jnp.float32(1.0), "cutmix": jnp.float32(1.0)}
    keys = jax.random.split(jax.random.key(1), 400)
    first = np.asarray(jax.jit(jax.vmap(lambda key: mix(key, batch_of_levels(), alphas)[0][0]))(keys))
    cut = np.array([set(np.unique(image)) <= {0.0, 200.0} for image in first])
    assert abs(cut.mean() - 0.5) < 5 * 0.5 / 20


def test_a_cutmix_box_has_the_drawn_size_inside_the_image():
    """Far from the border, with share s left, the sides are floor(12 sqrt(1 - s)) and floor(10 sqrt(1 - s))."""
    box = jax.jit(mixing._outside_box, static_argnums=(2, 3))
    for seed in range(60):
        outside = np.asarray(box(jax.random.key(seed), jnp.float32(0.84), 12, 10)) == 0
        height, width = outside.any(1).sum(), outside.any(0).sum()
        assert height <= 4 and width <= 4  # sqrt(0.16) = 0.4: 4.8 and 4
    assert outside.sum() > 0
