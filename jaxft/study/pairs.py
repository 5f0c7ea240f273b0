"""Distances between the final weights of trials."""

from typing import Any

import numpy as np

from jaxft import config as cfg
from jaxft.analysis import parameters
from jaxft.core import events
from jaxft.core.errors import UserError
from jaxft.core.events import Listener
from jaxft.core.text import byte_size
from jaxft.store.records import Store
from jaxft.study.chunk.lanes import stack
from jaxft.study.planned import Plan, PlannedTrial
from jaxft.weights import load_weights

MAX_PAIR_BYTES = 4_000_000_000


def measure_pairs(plan: Plan, store: Store, emit: Listener) -> None:
    """Stores the distances between the kept final weights of all trials with the same network and image size.

    All these weights are in memory together. If they take more than `MAX_PAIR_BYTES`, or cannot be loaded, an event
    reports that they are not compared.
    """
    import jax

    shapes: dict[Any, list[PlannedTrial]] = {}
    for trial in plan.trials:
        if store.has("trials", trial.digest) and store.weights_path(trial.digest).is_file():
            shapes.setdefault((trial.model, trial.size_px), []).append(trial)
    for trials in shapes.values():
        digests = [trial.digest for trial in trials]
        digest = cfg.digest({"analysis": "pairwise", "trials": digests})
        if len(trials) < 2 or store.has("analyses", digest):
            continue
        num_bytes = len(trials) * trials[0].num_bytes
        if num_bytes > MAX_PAIR_BYTES:
            reason = f"the weights of {len(trials)} trials take {byte_size(num_bytes)}"
            emit(events.AnalysisSkipped("distances between runs", reason))
            continue
        try:
            loaded = [load_weights(store.weights_path(t.digest), t.model, check_values=False)["params"] for t in trials]
        except UserError as error:
            emit(events.AnalysisSkipped("distances between runs", str(error)))
            continue
        by_layer = jax.device_get(parameters.pairwise_distances(stack(loaded)))
        layers = list(trials[0].layer_names)
        distances = np.stack([by_layer[layer] for layer in layers]).astype(np.float32)
        record = {"analysis": "pairwise", "trials": digests, "layers": layers, "head": trials[0].model.head}
        store.write("analyses", digest, record, {"distances": distances})
