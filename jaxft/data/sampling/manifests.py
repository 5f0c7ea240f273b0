"""Manifests: splits as JSON files, which recreate the splits exactly."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.core.errors import UserError
from jaxft.core.files import replacing
from jaxft.core.reading import TEXT_BYTES, Unreadable, read_file
from jaxft.core.text import plural, some_of
from jaxft.data.sampling.draft import Draft
from jaxft.data.sampling.factors import merge_into
from jaxft.data.sampling.sampled_images import FORMAT, SUBSETS, VERSION, SampledImages, manifest_digest


def write_manifest(path: str | os.PathLike[str], sampled: SampledImages) -> None:
    """Writes the manifest of a split to a file.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        with replacing(Path(path)) as temporary:
            temporary.write_text(_text(sampled), encoding="utf-8")
    except OSError as error:
        raise UserError(f"the manifest {str(path)!r} cannot be written: {error.strerror}.") from None


def is_manifest_of(path: str | os.PathLike[str], sampled: SampledImages) -> bool:
    """Returns whether a file is exactly the manifest of a split, as `write_manifest` writes it."""
    return Path(path).read_bytes() == _text(sampled).encode()


def _text(sampled: SampledImages) -> str:
    return json.dumps(sampled.manifest, indent=1)


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the manifest in a file. A manifest without 'digest' may be written or edited by hand.

    Raises:
      UserError: the file cannot be read, is not a valid manifest, or does not match its digest.
    """
    try:
        manifest = json.loads(read_file(Path(path), TEXT_BYTES))
        json.dumps(manifest, ensure_ascii=False).encode()  # fails for texts that are not Unicode
    except (Unreadable, OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        reason = str(error) if isinstance(error, Unreadable) else reason
        raise UserError(f"the manifest {str(path)!r} cannot be read: {reason}.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise UserError(f"{str(path)!r} is not the manifest of a split (format {FORMAT!r}, version {VERSION}).")
    fields = {name: value for name, value in manifest.items() if name != "digest"}
    if "digest" in manifest and manifest["digest"] != manifest_digest(fields):
        raise UserError(
            f"the manifest {str(path)!r} does not match its digest; if you edited it on purpose, remove 'digest'."
        )
    problem = _problem(manifest)
    if problem:
        raise UserError(f"the manifest {str(path)!r} {problem}.")
    return manifest


def _problem(manifest: Mapping[str, Any]) -> str:
    """Returns the first problem of the fields of a manifest, or an empty string."""
    missing = [name for name in ("data", "classes", "merged", *SUBSETS) if name not in manifest]
    if missing:
        return f"lacks {missing[0]!r}"
    if not _has_types(manifest):
        return "has a field of a wrong type"
    classes = manifest["classes"]
    if len(set(classes)) != len(classes) or not set(manifest["merged"].values()) <= set(classes):
        return "has a class twice in 'classes', or a class in 'merged' that is not in 'classes'"
    ids = [image_id for subset in SUBSETS for image_id in manifest[subset]["ids"]]
    if len(set(ids)) != len(ids):
        return "names an image twice"
    for subset in SUBSETS:
        labels = manifest[subset]["labels"]
        if len(labels) != len(manifest[subset]["ids"]):
            num_ids = len(manifest[subset]["ids"])
            return f"has {plural(len(labels), 'label')} for {plural(num_ids, 'id')} in {subset!r}"
        if not all(type(label) is int and 0 <= label < len(classes) for label in labels):
            return f"has labels in {subset!r} that are not integers from 0 to {len(classes) - 1}"
    return ""


def _has_types(manifest: Mapping[str, Any]) -> bool:
    """Returns whether the fields of a manifest are lists and dicts of texts, and lists of labels."""
    try:
        kept = manifest["data"].get("kept")
        lists = [
            manifest["classes"],
            *(manifest[subset]["ids"] for subset in SUBSETS),
            *([] if kept is None else [kept]),
        ]
        lists += [list(manifest["merged"]), list(manifest["merged"].values())]
        labels = [manifest[subset]["labels"] for subset in SUBSETS]
    except (AttributeError, TypeError, KeyError):
        return False
    are_lists = all(isinstance(values, list) for values in (*lists, *labels))
    return are_lists and all(isinstance(text, str) for texts in lists for text in texts)


def recreate(draft: Draft, manifest: Mapping[str, Any]) -> Draft:
    """Returns the draft with the classes, labels and split of a manifest.

    Raises:
      UserError: the images or classes of the manifest differ from the data of the draft, or it has no training images.
    """
    name, data = f"the manifest {draft.spec.manifest!r}", draft.spec.data
    data_fields, merged = manifest["data"], manifest["merged"]
    kept, fingerprint = data_fields.get("kept"), data_fields.get("fingerprint")
    draft = draft.with_spec(dataclasses.replace(draft.spec, classes=None if kept is None else tuple(kept)))
    images = draft.images
    if data_fields.get("size_px") == images.images.shape[1] and fingerprint not in (None, images.fingerprint):
        raise UserError(f"{name} was written for other images than {data!r} in '{draft.where}.data'.")
    if set(merged) != set(images.class_names):
        different = sorted(set(merged) ^ set(images.class_names))[0]
        raise UserError(f"{name} and {data!r} have different classes: only one of them has {different!r}.")
    draft = merge_into(draft, merged)
    if list(draft.images.class_names) != manifest["classes"]:
        raise UserError(
            f"{name} has {len(manifest['classes'])} 'classes' ({some_of(manifest['classes'], 3)}), which differ from "
            f"the {len(draft.images.class_names)} classes in 'merged' ({some_of(draft.images.class_names, 3)})."
        )
    rows = _rows_of_subsets(draft, manifest)
    if not len(rows["train"]):
        raise UserError(f"{name} has no training images.")
    labels = draft.images.labels.copy()
    for subset in SUBSETS:
        labels[rows[subset]] = manifest[subset]["labels"]
    return draft.with_rows(*(np.sort(rows[subset]) for subset in SUBSETS)).with_labels(labels)


def _rows_of_subsets(draft: Draft, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the rows of the training, validation and test images, in the order of the manifest."""
    row_of = {image_id: row for row, image_id in enumerate(draft.images.ids)}
    rows = {}
    for subset in SUBSETS:
        ids = manifest[subset]["ids"]
        missing = [image_id for image_id in ids if image_id not in row_of]
        if missing:
            raise UserError(
                f"the manifest {draft.spec.manifest!r} names {plural(len(missing), 'image')} that the classes of "
                f"{draft.spec.data!r} do not contain: {some_of(missing, 3)}."
            )
        rows[subset] = np.array([row_of[image_id] for image_id in ids], np.int32)
    return rows
