"""The built-in data factors. They are registered in the order in which they are applied.

A data factor is a function from a draft and options to a draft (`jaxft.data.sampling.draft.DataFactor`). Data factors
of plug-ins are applied after the built-in ones, in the order of registration.
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
    """Returns the draft with randomly selected classes."""
    if options.num_classes is None:
        return draft
    spec = choose_classes(options, draft.images.class_names, draft.seed, draft.where)
    return draft.with_spec(spec)


def draw_images(draft: Draft, options: Images) -> Draft:
    """Returns the draft with training, validation and test images, drawn separately for each class."""
    split = draw_split(draft.images, draft.seed, draft.spec, draft.where, draft.fold)
    return dataclasses.replace(draft, split=split)


def merge(draft: Draft, options: Images) -> Draft:
    """Returns the draft with classes merged into their WordNet ancestors."""
    if options.wordnet_depth is None:
        return draft
    return merge_into(draft, merged_names(draft.images.class_names, options.wordnet_depth, options.synsets))


def merge_into(draft: Draft, merged: Mapping[str, str]) -> Draft:
    """Returns the draft with classes merged; `merged` maps each class to its merged class."""
    images = draft.images
    if any(name != merged_name for name, merged_name in merged.items()):
        images = merge_classes(images, merged)
    return dataclasses.replace(draft, images=images, merged=merged).with_labels(images.labels.copy())


def add_label_noise(draft: Draft, options: Images) -> Draft:
    """Returns the draft with label noise: a fraction of the training images get the label of another class."""
    if not options.label_noise:
        return draft
    return draft.with_labels(noisy_labels(draft.images, draft.split.train, options.label_noise, draft.seed))


def remove_color(draft: Draft, options: Images) -> Draft:
    """Returns the draft with gray images, if `options.gray` is true."""
    return draft.with_pixels(("gray",), gray) if options.gray else draft


def shuffle(draft: Draft, options: Images) -> Draft:
    """Returns the draft with the pixel blocks of each image shuffled; all images have the same random order.

    Raises:
      UserError: the block size does not divide the image size.
    """
    block_px, size = options.shuffle_px, draft.images.images.shape[1]
    if not block_px:
        return draft
    if size % block_px:
        raise UserError(
            f"'{draft.where}.shuffle_px' is {block_px}, which does not divide the image size {size}; "
            f"allowed: {', '.join(str(side) for side in range(1, size + 1) if size % side == 0)}."
        )
    how = "shuffled", str(block_px), str(draft.seed)
    return draft.with_pixels(how, lambda pixels: shuffle_blocks(pixels, block_px, draft.seed))


DATA_FACTORS.register("classes", DataFactor(choose, is_drawn=True), help="random selection of classes")
DATA_FACTORS.register("images", DataFactor(draw_images, is_drawn=True), help="images of each class, with imbalance")
DATA_FACTORS.register("merged_classes", DataFactor(merge, is_drawn=True), help="classes merged by WordNet")
DATA_FACTORS.register("label_noise", DataFactor(add_label_noise, is_drawn=True), help="wrong training labels")
DATA_FACTORS.register("gray", DataFactor(remove_color), help="gray images")
DATA_FACTORS.register("shuffled_blocks", DataFactor(shuffle), help="shuffled blocks of pixels")
