"""The arrays of the source network that regularizers of a phase need: weights, logits and feature maps."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxft.features.prefix import Prefix
from jaxft.models import block_of
from jaxft.study.chunk.lanes import Lane, SharedImages
from jaxft.study.chunk.prefixes import prefix_of
from jaxft.study.services import Services
from jaxft.training.phase import Phase
from jaxft.training.source import SourceArrays, source_network


def load_source_arrays(
    phase: Phase,
    trials: Sequence[Lane],
    images: SharedImages,
    services: Services,
    indices: np.ndarray,
    rows: np.ndarray,
) -> SourceArrays | None:
    """Returns the source arrays that the regularizers of a phase need, or None if they need none.

    Feature maps are cached if the images do not vary and the maps fit into memory. Otherwise the weights of the blocks
    that compute the maps are returned, without the blocks of the frozen prefix.

    Args:
      phase: the phase.
      trials: the arrays of each trial; all have the same source.
      images: the images.
      services: feature cache, listener and clock.
      indices: [trials, steps, batch] int32, the indices of all batches: view * n + image.
      rows: [rows] int32, the index of each row of the images of the phase.

    Raises:
      ValueError: regularizers need the source, but the trials have none.
    """
    needs, model, source = phase.source_needs, phase.model, trials[0].source
    features, emit = services.cache, services.emit
    if not needs:
        return None
    if source is None:
        raise ValueError("regularizers need the weights of the source, but `Lane.source` is None.")
    training_indices = np.unique(indices)
    head, n = model.head, len(images)

    def positions(table: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.clip(np.searchsorted(table, values), 0, len(table) - 1).astype(np.int32)

    source_arrays = SourceArrays({name: source["params"][name] for name in needs.params}, {})
    if needs.logits:
        source_head = {name: leaf for name, leaf in source["params"].items() if model.in_head(name)}
        recorded_rows = np.unique(training_indices % n)
        head_phase = dataclasses.replace(phase, model=source_network(model, source_head), views=0)
        recorded_logits = features.outputs(prefix_of(head_phase, head, source, images, trials[0]), recorded_rows, emit)
        source_arrays.params.update(source_head)
        source_arrays = source_arrays._replace(logits=recorded_logits, logit_rows=positions(recorded_rows, rows % n))
    if needs.maps:
        prefixes: list[Prefix] = []
        for block in needs.maps:
            through = prefixes[-1] if prefixes else None
            prefixes.append(prefix_of(phase, block, source, images, trials[0], through))
        num_bytes = 4 * len(training_indices) * sum(math.prod(prefix.output_shape) for prefix in prefixes)
        if (phase.views or not phase.augments_images) and num_bytes <= features.max_bytes:
            maps = {prefix.block: features.outputs(prefix, training_indices, emit) for prefix in prefixes}
            return source_arrays._replace(maps=maps, map_rows=positions(training_indices, rows))
        source_blocks = model.blocks_after(phase.prefix, needs.maps[-1])
        for arrays, source_leaves in zip(
            (source_arrays.params, source_arrays.batch_stats), (source["params"], source["batch_stats"])
        ):
            arrays.update(
                {name: leaf for name, leaf in source_leaves.items() if block_of(name, model.blocks) in source_blocks}
            )
    return source_arrays
