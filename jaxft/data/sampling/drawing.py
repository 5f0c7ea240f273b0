"""From what a config says of images to the images, their split and its manifest: every factor of the data, in order.

    read            `data` and `union`
    choose classes  `classes`, `num_classes`, `class_choice`
    draw            to test, to select and to train on, class by class
    merge classes   `wordnet_depth`
    labels          `label_noise`
    pixels          `grey`, `shuffle_px`

A manifest is a split as JSON, which recreates it exactly: `manifest` takes the place of all that is drawn. Pixels are
changed as the config says, with a manifest too.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.config import DRAWN, Images, non_default
from jaxft.core import version
from jaxft.core.errors import UserError
from jaxft.core.events import Listener, print_warnings
from jaxft.core.files import replacing
from jaxft.data.readers.image_sets import ImageSet, keep_classes, load_images
from jaxft.data.sampling.factors import change_pixels, choose_classes, join_sets, merge_classes, merged_names, set_names
from jaxft.data.sampling.splits import Split, draw_split, split_digest

FORMAT = "jaxft split"
VERSION = 1
PARTS = ("train", "val", "test")

READ = ("data", "domain", "label", "unreadable")  # fields that say which images are read


@dataclass(frozen=True, eq=False)
class Drawn:
    """Images with classes and pixels as a trial has them, and which of them it trains, selects and is tested on.

    Attributes:
      images: the images; their labels are true ones, those of the split may be noisy.
      split: the split.
      asked: what was asked for; `spec`: the same with its classes by name.
      seed, fold: what it was drawn by.
      kept: the images of these classes, as they were read.
      merged: for each of these classes, the one it is merged into (itself, where none are).
    """

    images: ImageSet
    split: Split
    asked: Images
    spec: Images
    seed: int
    fold: int
    kept: ImageSet
    merged: Mapping[str, str]

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """Returns the split for JSON.

        `data`: what it was drawn from: the names, the classes that were `kept` (none: all), and the fingerprint of
        their images at `size_px`; `drawn`: by what, and the fields that say what; `classes`: the labels' names;
        `merged`: for each class of the data that was used, its name among them; `train`, `val`, `test`: `ids` and
        `labels` of the images; `skipped`: pictures left out, as they could not be read; `split`: the digest of ids and
        labels; `digest`: that of the whole manifest.
        """
        images, split, classes = self.images, self.split, self.spec.classes
        asked = non_default(self.asked)
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "data": {
                "names": [self.spec.data, *self.spec.union],
                "fingerprint": self.kept.fingerprint,
                "size_px": images.images.shape[1],
                "kept": None if classes is None else list(classes),
            },
            "drawn": {
                "by": f"jaxft {version.VERSION}",
                "seed": self.seed,
                "fold": self.fold,
                "fields": {name: asked[name] for name in DRAWN if name in asked},
            },
            "classes": list(images.class_names),
            "merged": dict(self.merged),
            **{
                part: {"ids": [images.ids[row] for row in rows], "labels": split.labels[rows].tolist()}
                for part, rows in zip(PARTS, (split.train, split.val, split.test))
            },
            "skipped": [list(item) for item in images.skipped],
            "split": split.digest,
        }
        return manifest | {"digest": _digest(manifest)}


def draw(
    spec: Images,
    seed: int,
    size_px: int | None = None,
    where: str = "target",
    fold: int = 0,
    emit: Listener = print_warnings,
    sets: dict[Any, ImageSet] | None = None,
) -> Drawn:
    """Returns the images of `spec` and their split, as drawn by a seed, or as its manifest has them.

    Args:
      size_px: side of the images; none: `spec.size_px`, or what they have themselves.
      where: the config's field that `spec` is, for errors.
      fold: which share of `spec.val_fraction` is selected on.
      emit: hears how far the reading is.
      sets: image sets that were read or made by such calls before, and will be by later ones.

    Raises a `UserError` where something cannot be drawn.
    """
    sets = {} if sets is None else sets
    size_px = size_px or spec.size_px
    if spec.manifest is not None:
        return _recreated(spec, seed, read_manifest(spec.manifest), size_px, where, emit, sets)
    asked = spec
    if spec.num_classes is not None:
        spec = choose_classes(spec, read_images(spec, size_px, emit, sets).class_names, seed, where)
    images = read_images(spec, size_px, emit, sets)
    merged = {name: name for name in images.class_names}
    if spec.wordnet_depth is not None:
        merged = merged_names(images.class_names, spec.wordnet_depth, spec.synsets)
    final = _merged(images, merged)
    split = draw_split(images, seed, spec, where, fold, final)
    return Drawn(_changed(final, spec, seed, where, sets), split, asked, spec, seed, fold, images, merged)


def read_images(spec: Images, size_px: int | None, emit: Listener, sets: dict[Any, ImageSet]) -> ImageSet:
    """Returns the images of `spec`: its data and what is joined to them, of the classes that it names.

    Joined sets have the size of the first where none is said.
    """
    plain = dataclasses.replace(Images(), **{name: getattr(spec, name) for name in READ})

    def read() -> ImageSet:
        first = load_images(plain, size_px, emit)
        if not spec.union:
            return first
        size = first.images.shape[1]
        further = [load_images(Images(data=data, unreadable=spec.unreadable), size, emit) for data in spec.union]
        return join_sets(dict(zip(set_names((spec.data, *spec.union)), (first, *further))))

    everything = _once(sets, ("read", plain, spec.union, size_px), read)
    return _once(sets, ("kept", everything.fingerprint, spec.classes), lambda: keep_classes(everything, spec, emit))


def _merged(images: ImageSet, merged: Mapping[str, str]) -> ImageSet:
    return images if all(name == into for name, into in merged.items()) else merge_classes(images, merged)


def _changed(images: ImageSet, spec: Images, seed: int, where: str, sets: dict[Any, ImageSet]) -> ImageSet:
    by = seed if spec.shuffle_px else None
    key = "changed", images.fingerprint, spec.grey, spec.shuffle_px, by
    return _once(sets, key, lambda: change_pixels(images, spec, seed, where))


def _once(sets: dict[Any, ImageSet], key: Any, make: Callable[[], ImageSet]) -> ImageSet:
    if key not in sets:
        sets[key] = make()
    return sets[key]


# --- manifests --------------------------------------------------------------------------------------------------


def write_manifest(path: str | os.PathLike[str], drawn: Drawn) -> None:
    """Writes a split's manifest to a file."""
    try:
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps(drawn.manifest, indent=1), encoding="utf-8")
    except OSError as error:
        raise UserError(f"the manifest {str(path)!r} cannot be written: {error.strerror}.") from None


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns a manifest; a `UserError` says where it is none, or was changed after it was written.

    One without a 'digest' is taken as it is, so that a person may write one, or change one.
    """
    try:
        manifest = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise UserError(f"the manifest {str(path)!r} cannot be read: {reason}.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise UserError(f"{str(path)!r} is no manifest of a split (format {FORMAT!r}, version {VERSION}).")
    told = {name: value for name, value in manifest.items() if name != "digest"}
    if "digest" in manifest and manifest["digest"] != _digest(told):
        raise UserError(f"the manifest {str(path)!r} was changed since it was written; without 'digest' it is used.")
    problem = _problem(manifest)
    if problem:
        raise UserError(f"the manifest {str(path)!r} {problem}.")
    return manifest


def _problem(manifest: Mapping[str, Any]) -> str:
    """Returns what is wrong with a manifest's fields; empty for nothing."""
    missing = [name for name in ("data", "classes", "merged", *PARTS) if name not in manifest]
    if missing:
        return f"lacks {missing[0]!r}"
    classes = manifest["classes"]
    if len(set(classes)) != len(classes) or not set(manifest["merged"].values()) <= set(classes):
        return "has classes twice, or merges some into others than its 'classes'"
    ids = [image_id for part in PARTS for image_id in manifest[part]["ids"]]
    if len(set(ids)) != len(ids):
        return "names an image twice"
    for part in PARTS:
        labels = manifest[part]["labels"]
        if len(labels) != len(manifest[part]["ids"]):
            return f"has not as many labels as ids to {part} on"
        if not all(isinstance(label, int) and 0 <= label < len(classes) for label in labels):
            return f"has labels in {part!r} that are not from 0 to {len(classes) - 1}"
    return ""


def _digest(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _recreated(
    spec: Images,
    seed: int,
    manifest: Mapping[str, Any],
    size_px: int | None,
    where: str,
    emit: Listener,
    sets: dict[Any, ImageSet],
) -> Drawn:
    """Returns the images and the split of a manifest; the pixels are changed as `spec` says."""
    named = f"the manifest {spec.manifest!r}"
    told, merged = manifest["data"], manifest["merged"]
    kept = None if told.get("kept") is None else tuple(told["kept"])
    kept_spec = dataclasses.replace(spec, classes=kept)
    images = read_images(kept_spec, size_px, emit, sets)
    if told.get("size_px") == images.images.shape[1] and told.get("fingerprint") not in (None, images.fingerprint):
        raise UserError(f"{named} is of other images than those of '{where}.data', {spec.data!r}.")
    if set(merged) != set(images.class_names):
        odd = sorted(set(merged) ^ set(images.class_names))[0]
        raise UserError(f"{named} and {spec.data!r} do not have the same classes: {odd!r} is in one of them.")
    final = _merged(images, merged)
    if list(final.class_names) != manifest["classes"]:
        raise UserError(f"{named} has the classes {manifest['classes']}, but its images {list(final.class_names)}.")
    place = {image_id: row for row, image_id in enumerate(images.ids)}
    labels = final.labels.copy()
    rows = []
    for part in PARTS:
        ids = manifest[part]["ids"]
        lost = next((image_id for image_id in ids if image_id not in place), None)
        if lost is not None:
            raise UserError(f"{named} has the image {lost!r}, which {spec.data!r} does not have in its classes.")
        of_part = np.array([place[image_id] for image_id in ids], np.int32)
        labels[of_part] = manifest[part]["labels"]
        rows.append(np.sort(of_part))
    if not len(rows[0]):
        raise UserError(f"{named} has no images to train on.")
    split = Split(rows[0], rows[1], rows[2], split_digest(final, rows, labels), labels)
    return Drawn(_changed(final, spec, seed, where, sets), split, spec, kept_spec, seed, 0, images, merged)
