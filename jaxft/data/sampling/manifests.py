"""Splits as JSON files, manifests, which recreate them exactly."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.core.errors import UserError
from jaxft.core.files import replacing
from jaxft.data.sampling.draft import Draft
from jaxft.data.sampling.factors import merge_into
from jaxft.data.sampling.sampled_images import FORMAT, SUBSETS, VERSION, SampledImages, manifest_digest


def write_manifest(path: str | os.PathLike[str], sampled: SampledImages) -> None:
    """Writes a split's manifest to a file."""
    try:
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps(sampled.manifest, indent=1), encoding="utf-8")
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
    fields = {name: value for name, value in manifest.items() if name != "digest"}
    if "digest" in manifest and manifest["digest"] != manifest_digest(fields):
        raise UserError(f"the manifest {str(path)!r} was changed since it was written; without 'digest' it is used.")
    problem = _problem(manifest)
    if problem:
        raise UserError(f"the manifest {str(path)!r} {problem}.")
    return manifest


def _problem(manifest: Mapping[str, Any]) -> str:
    """Returns what is wrong with a manifest's fields; empty for nothing."""
    missing = [name for name in ("data", "classes", "merged", *SUBSETS) if name not in manifest]
    if missing:
        return f"lacks {missing[0]!r}"
    classes = manifest["classes"]
    if len(set(classes)) != len(classes) or not set(manifest["merged"].values()) <= set(classes):
        return "has classes twice, or merges some into others than its 'classes'"
    ids = [image_id for subset in SUBSETS for image_id in manifest[subset]["ids"]]
    if len(set(ids)) != len(ids):
        return "names an image twice"
    for subset in SUBSETS:
        labels = manifest[subset]["labels"]
        if len(labels) != len(manifest[subset]["ids"]):
            return f"has not as many labels as ids to {subset} on"
        if not all(isinstance(label, int) and 0 <= label < len(classes) for label in labels):
            return f"has labels in {subset!r} that are not from 0 to {len(classes) - 1}"
    return ""


def recreate(draft: Draft, manifest: Mapping[str, Any]) -> Draft:
    """Returns the draft with the classes, labels and split of a manifest.

    Raises:
      UserError: the manifest is of other images or classes than the data of the draft, or has nothing to train on.
    """
    named, data = f"the manifest {draft.spec.manifest!r}", draft.spec.data
    kept, merged = manifest["data"].get("kept"), manifest["merged"]
    draft = draft.with_spec(dataclasses.replace(draft.spec, classes=None if kept is None else tuple(kept)))
    images, read = draft.images, manifest["data"]
    if read.get("size_px") == images.images.shape[1] and read.get("fingerprint") not in (None, images.fingerprint):
        raise UserError(f"{named} is of other images than those of '{draft.where}.data', {data!r}.")
    if set(merged) != set(images.class_names):
        odd = sorted(set(merged) ^ set(images.class_names))[0]
        raise UserError(f"{named} and {data!r} do not have the same classes: {odd!r} is in one of them.")
    draft = merge_into(draft, merged)
    if list(draft.images.class_names) != manifest["classes"]:
        raise UserError(
            f"{named} has the classes {manifest['classes']}, but its images {list(draft.images.class_names)}."
        )
    rows = _rows_of_subsets(draft, manifest)
    if not len(rows["train"]):
        raise UserError(f"{named} has no images to train on.")
    labels = draft.images.labels.copy()
    for subset in SUBSETS:
        labels[rows[subset]] = manifest[subset]["labels"]
    return draft.with_rows(*(np.sort(rows[subset]) for subset in SUBSETS)).with_labels(labels)


def _rows_of_subsets(draft: Draft, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the rows of the images to train, select and test on, in the order of the manifest."""
    row_of = {image_id: row for row, image_id in enumerate(draft.images.ids)}
    rows = {}
    for subset in SUBSETS:
        ids = manifest[subset]["ids"]
        lost = next((image_id for image_id in ids if image_id not in row_of), None)
        if lost is not None:
            raise UserError(
                f"the manifest {draft.spec.manifest!r} has the image {lost!r}, which {draft.spec.data!r} does not "
                "have in its classes."
            )
        rows[subset] = np.array([row_of[image_id] for image_id in ids], np.int32)
    return rows
