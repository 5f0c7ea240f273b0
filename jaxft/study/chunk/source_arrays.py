"""What the regularizers of a phase need of the source network: its weights, outputs and feature maps."""

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
    lanes: Sequence[Lane],
    images: SharedImages,
    services: Services,
    indices: np.ndarray,
    rows: np.ndarray,
) -> SourceArrays | None:
    """Returns what a phase's regularizers need of the source; None where they need nothing.

    Its feature maps are kept where images do not vary and they fit in memory.

    Args:
      indices: those of all batches, view * n + row.
      rows: [rows] which of them each row of the phase's images is.
    """
    needs, model, source = phase.source_needs, phase.model, lanes[0].source
    features, emit = services.cache, services.emit
    if not needs:
        return None
    if source is None:
        raise ValueError("regularizers towards the source need the source of each lane.")
    trained_on = np.unique(indices)
    head, n = model.head, len(images)

    def positions(table: np.ndarray, of: np.ndarray) -> np.ndarray:
        return np.clip(np.searchsorted(table, of), 0, len(table) - 1).astype(np.int32)

    source_arrays = SourceArrays({name: source["params"][name] for name in needs.params}, {})
    if needs.logits:
        source_head = {name: leaf for name, leaf in source["params"].items() if model.in_head(name)}
        recorded_of = np.unique(trained_on % n)
        head_phase = dataclasses.replace(phase, model=source_network(model, source_head), views=0)
        recorded_logits = features.outputs(prefix_of(head_phase, head, source, images, lanes[0]), recorded_of, emit)
        source_arrays.params.update(source_head)
        source_arrays = source_arrays._replace(logits=recorded_logits, logit_rows=positions(recorded_of, rows % n))
    if needs.maps:
        prefixes: list[Prefix] = []
        for block in needs.maps:
            through = prefixes[-1] if prefixes else None
            prefixes.append(prefix_of(phase, block, source, images, lanes[0], through))
        num_bytes = 4 * len(trained_on) * sum(math.prod(prefix.output_shape) for prefix in prefixes)
        if (phase.views or not phase.augments_images) and num_bytes <= features.max_bytes:
            maps = {prefix.block: features.outputs(prefix, trained_on, emit) for prefix in prefixes}
            return source_arrays._replace(maps=maps, map_rows=positions(trained_on, rows))
        first = model.blocks.index(phase.prefix) + 1 if phase.prefix else 0
        source_blocks = model.blocks[first : model.blocks.index(needs.maps[-1]) + 1]
        for arrays, source_leaves in zip(
            (source_arrays.params, source_arrays.batch_stats), (source["params"], source["batch_stats"])
        ):
            arrays.update(
                {name: leaf for name, leaf in source_leaves.items() if block_of(name, model.blocks) in source_blocks}
            )
    return source_arrays
