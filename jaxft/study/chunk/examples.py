"""Example arrays of a phase, with arbitrary values, for compiling and timing."""

import dataclasses

import numpy as np

from jaxft.features.prefix import output_shape
from jaxft.study.chunk.lanes import Lane
from jaxft.training.phase import Phase
from jaxft.training.source import SourceArrays, source_network
from jaxft.training.state import Flat, Frozen, split_variables


def example_phase(phase: Phase, lane: Lane, images: np.ndarray) -> tuple[Phase, Flat, Flat, Frozen, np.ndarray]:
    """Returns (phase, trainable, tracked, frozen, images) of a phase, without a trial axis.

    `images` is [n, h, w, 3] uint8. If the outputs of the frozen prefix are cached, zeros replace them: the returned
    images are [n, ...] float32 with the shape of these outputs.
    """
    trainable, tracked, frozen = split_variables(phase, lane.params, lane.batch_stats)
    if phase.can_cache_prefix and phase.prefix is not None:
        shape = output_shape(phase.model, phase.prefix, phase.preprocessing.size_px)
        images, phase = np.zeros((len(images), *shape), np.float32), dataclasses.replace(phase, from_features=True)
    return phase, trainable, tracked, frozen._replace(source_arrays=_example_source_arrays(phase, lane)), images


def _example_source_arrays(phase: Phase, lane: Lane) -> SourceArrays | None:
    """Returns the source arrays for the regularizers of a phase, for one image; cached feature maps are zeros."""
    needs, row = phase.source_needs, np.zeros(1, np.int32)
    if not needs:
        return None
    source_arrays = SourceArrays(dict(lane.params), dict(lane.batch_stats))
    if needs.logits:
        logits = np.zeros((1, source_network(phase.model, lane.params).num_classes), np.float32)
        source_arrays = source_arrays._replace(logits=logits, logit_rows=row)
    if needs.maps and (phase.views or not phase.augments_images):
        shapes = {block: output_shape(phase.model, block, phase.preprocessing.size_px) for block in needs.maps}
        maps = {block: np.zeros((1, *shape), np.float32) for block, shape in shapes.items()}
        source_arrays = source_arrays._replace(maps=maps, map_rows=row)
    return source_arrays
