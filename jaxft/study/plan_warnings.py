"""Warnings about a plan: test images that the source is trained on, pictures that are left out."""

import numpy as np

from jaxft.core.digests import sha256_of
from jaxft.data import ImageSet
from jaxft.study.planned import PlannedTrial


def overlap(trial: PlannedTrial) -> list[str]:
    """Returns a warning where images that a trial is tested on are among those its source was trained on here."""
    source = trial.source.trained
    if source is None or not trial.starts_from_source:
        return []

    def contents(images: ImageSet, rows: np.ndarray) -> set[str]:
        return {sha256_of(images.images[row]) for row in rows}

    seen = contents(trial.images, trial.split.test) & contents(source.images, source.split.train)
    if not seen:
        return []
    return [
        f"{len(seen)} of the {len(trial.split.test)} test images of {trial.trial.target.data!r} are among those that "
        "the source is trained on: the accuracy of pretrained trials is too high."
    ]


def left_out(trial: PlannedTrial) -> list[str]:
    """Returns a warning where pictures that cannot be used were left out of a trial's images, or of its source's."""
    warnings = []
    for planned in (trial, trial.source.trained if trial.starts_from_source else None):
        if planned is not None and planned.images.skipped:
            skipped, data = planned.images.skipped, planned.trial.target.data
            name, why = skipped[0]
            warnings.append(
                f"{len(skipped)} pictures of {data!r} cannot be used and are left out: '{name}' ({why}), ..."
            )
    return warnings
