"""Warnings about a plan: choices in reading weights, test images that the source is trained on, skipped images."""

import numpy as np

from jaxft.core.digests import sha256_of
from jaxft.core.text import plural
from jaxft.data import ImageSet
from jaxft.study.planned import PlannedTrial


def overlap(trial: PlannedTrial) -> list[str]:
    """Returns a warning if test images of a trial are training images of the source network that jaxft trains."""
    source = trial.source.trained
    if source is None or not trial.starts_from_source:
        return []

    def contents(images: ImageSet, rows: np.ndarray) -> set[str]:
        return {sha256_of(images.images[row]) for row in rows}

    overlapping = contents(trial.images, trial.split.test) & contents(source.images, source.split.train)
    if not overlapping:
        return []
    return [
        f"{len(overlapping)} of {len(trial.split.test)} test images of {trial.trial.target.data!r} are also training "
        "images of the source, so the test accuracy of pretrained trials is too high."
    ]


def weight_notes(trial: PlannedTrial) -> tuple[str, ...]:
    """Returns the notes about the weight file that a trial starts from, such as a removed prefix."""
    manifest = trial.source.manifest
    return manifest.notes if manifest is not None and trial.starts_from_source else ()


def skipped_images(trial: PlannedTrial) -> list[str]:
    """Returns warnings if images, classes or folders of a trial, or of the source that jaxft trains, are left out."""
    warnings: list[str] = []
    for planned in (trial, trial.source.trained if trial.starts_from_source else None):
        if planned is not None:
            warnings += planned.images.notes
        if planned is not None and planned.images.skipped:
            skipped, data = planned.images.skipped, planned.trial.target.data
            name, reason = skipped[0]
            warnings.append(
                f"skipped {plural(len(skipped), 'image file')} of {data!r} that cannot be used, such as '{name}' "
                f"({reason})."
            )
    return warnings
