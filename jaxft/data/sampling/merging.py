"""Merging of classes into their WordNet ancestors."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxft.analysis.wordnet import class_synsets, load_wordnet
from jaxft.core.errors import UserError
from jaxft.data.readers.image_set import ImageSet, derived_fingerprint


def merged_names(class_names: Sequence[str], depth: int, table: str | None = None) -> dict[str, str]:
    """Returns the name of the merged class of each class: its WordNet ancestor at a depth.

    The root 'entity' has depth 0. A class at this depth or above is not merged. The name of a merged class is the first
    word of its synset, followed by the number of the synset if two merged classes share the word.

    Args:
      class_names: the classes.
      depth: depth of the ancestors.
      table: CSV file with the synsets of the classes, as in `class_synsets`.

    Reference: Huh, Agrawal & Efros 2016, "What makes ImageNet good for transfer learning?", section 5.
    """
    wordnet = load_wordnet()
    ancestors = {name: wordnet.ancestor(synset, depth) for name, synset in class_synsets(class_names, table).items()}
    by_word: dict[str, set[str]] = {}
    for synset in ancestors.values():
        by_word.setdefault(wordnet.words[synset], set()).add(synset)

    def name_of(synset: str) -> str:
        word = wordnet.words[synset]
        return word if len(by_word[word]) == 1 else f"{word} {synset}"

    return {name: name_of(synset) for name, synset in ancestors.items()}


def merge_classes(images: ImageSet, merged: Mapping[str, str]) -> ImageSet:
    """Returns the images with merged classes; `merged` maps each class to its merged class.

    Raises:
      UserError: all classes are merged into one.
    """
    names = tuple(sorted({merged[name] for name in images.class_names}))
    if len(names) < 2:
        raise UserError(f"'wordnet_depth' merges all classes into one, {names[0]!r}; increase it.")
    labels = np.array([names.index(merged[name]) for name in images.class_names], np.int32)
    how = [f"{name} {merged[name]}" for name in images.class_names]
    return dataclasses.replace(
        images,
        labels=labels[images.labels],
        class_names=names,
        fingerprint=derived_fingerprint(images, "merged", *how),
    )
