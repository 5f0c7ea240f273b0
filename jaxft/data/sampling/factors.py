"""The data factors, in the order in which they are applied. A factor is a function, and a line that registers it.

Those of plug-ins come after the built-in ones, in the order in which they are registered.
"""

import dataclasses
from collections.abc import Mapping

from jaxft.config import Images
from jaxft.core.errors import UserError
from jaxft.core.registries import DATA_FACTORS
from jaxft.data.sampling.class_choice import choose_classes
from jaxft.data.sampling.draft import DataFactor, Draft
from jaxft.data.sampling.label_noise import noisy_labels
from jaxft.data.sampling.merging import merge_classes, merged_names
from jaxft.data.sampling.pixels import gray, shuffle_blocks
from jaxft.data.sampling.splits import draw_split


def choose(draft: Draft, options: Images) -> Draft:
    """Chooses some of the classes, by name from there on."""
    if options.num_classes is None:
        return draft
    spec = choose_classes(options, draft.images.class_names, draft.seed, draft.where)
    return draft.with_spec(spec)


def draw_images(draft: Draft, options: Images) -> Draft:
    """Draws the images to train, select and test on, class by class, with `imbalance` among those to train on."""
    split = draw_split(draft.images, draft.seed, draft.spec, draft.where, draft.fold)
    return dataclasses.replace(draft, split=split)


def merge(draft: Draft, options: Images) -> Draft:
    """Merges classes under those above them in WordNet."""
    if options.wordnet_depth is None:
        return draft
    return merge_into(draft, merged_names(draft.images.class_names, options.wordnet_depth, options.synsets))


def merge_into(draft: Draft, merged: Mapping[str, str]) -> Draft:
    """Returns the draft with each class merged into another, or itself."""
    images = draft.images
    if any(name != into for name, into in merged.items()):
        images = merge_classes(images, merged)
    return dataclasses.replace(draft, images=images, merged=merged).with_labels(images.labels.copy())


def add_label_noise(draft: Draft, options: Images) -> Draft:
    """Replaces some of the training labels by other classes."""
    if not options.label_noise:
        return draft
    return draft.with_labels(noisy_labels(draft.images, draft.split.train, options.label_noise, draft.seed))


def take_color_away(draft: Draft, options: Images) -> Draft:
    """Makes the images gray."""
    return draft.with_pixels(("gray",), gray) if options.gray else draft


def shuffle(draft: Draft, options: Images) -> Draft:
    """Cuts the images into blocks and shuffles these, alike in all images, in an order of the seed."""
    block_px, size = options.shuffle_px, draft.images.images.shape[1]
    if not block_px:
        return draft
    if size % block_px:
        raise UserError(
            f"'{draft.where}.shuffle_px' is {block_px}, of which {size} pixels are no whole number; "
            f"allowed: {', '.join(str(side) for side in range(1, size + 1) if size % side == 0)}."
        )
    how = "shuffled", str(block_px), str(draft.seed)
    return draft.with_pixels(how, lambda pixels: shuffle_blocks(pixels, block_px, draft.seed))


DATA_FACTORS.register("classes", DataFactor(choose, is_drawn=True), help="some of the classes")
DATA_FACTORS.register("images", DataFactor(draw_images, is_drawn=True), help="images of each class, and imbalance")
DATA_FACTORS.register("merged_classes", DataFactor(merge, is_drawn=True), help="classes merged by WordNet")
DATA_FACTORS.register("label_noise", DataFactor(add_label_noise, is_drawn=True), help="wrong training labels")
DATA_FACTORS.register("gray", DataFactor(take_color_away), help="no color")
DATA_FACTORS.register("shuffled_blocks", DataFactor(shuffle), help="blocks of pixels shuffled")
