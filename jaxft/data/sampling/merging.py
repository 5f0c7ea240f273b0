"""Classes merged into those above them in WordNet."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxft.analysis.wordnet import class_synsets, load_wordnet
from jaxft.core.errors import UserError
from jaxft.data.readers.image_set import ImageSet, derived_fingerprint


def merged_names(class_names: Sequence[str], depth: int, table: str | None = None) -> dict[str, str]:
    """Returns the merged class of each class: what is above it at a depth of WordNet, where 'entity' has depth 0.

    A class that is no deeper stays for itself (Huh, Agrawal & Efros 2016, section 5, merge ImageNet's classes so). A
    merged class is called by its synset's first word, and by its number too where two share the word.
    """
    wordnet = load_wordnet()
    above = {name: wordnet.ancestor(synset, depth) for name, synset in class_synsets(class_names, table).items()}
    by_word: dict[str, set[str]] = {}
    for synset in above.values():
        by_word.setdefault(wordnet.words[synset], set()).add(synset)

    def called(synset: str) -> str:
        word = wordnet.words[synset]
        return word if len(by_word[word]) == 1 else f"{word} {synset}"

    return {name: called(synset) for name, synset in above.items()}


def merge_classes(images: ImageSet, merged: Mapping[str, str]) -> ImageSet:
    """Returns the same images, labeled by the class that `merged` has for each of theirs."""
    names = tuple(sorted({merged[name] for name in images.class_names}))
    if len(names) < 2:
        raise UserError(f"all classes are merged into one, {names[0]!r}; raise 'wordnet_depth'.")
    labels = np.array([names.index(merged[name]) for name in images.class_names], np.int32)
    how = [f"{name} {merged[name]}" for name in images.class_names]
    return dataclasses.replace(
        images,
        labels=labels[images.labels],
        class_names=names,
        fingerprint=derived_fingerprint(images, "merged", *how),
    )
