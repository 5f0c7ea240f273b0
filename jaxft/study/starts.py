"""Where trials start: weights of the source, head, adapters, numbers of the regularizers."""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxft.data.batches import class_weights
from jaxft.models import Network
from jaxft.store.records import Store
from jaxft.study.chunk.lanes import Lane
from jaxft.study.planned import PlannedTrial
from jaxft.training.optimizers import make_hparams
from jaxft.weights.files import fit, is_head, read_file, refuse_damaged


def held_units(planned: PlannedTrial) -> tuple[str, ...]:
    """Returns the units whose maps DELTA holds in any phase of a trial."""
    return tuple(dict.fromkeys(unit for phase in planned.program.phases for unit in phase.regularisers.maps))


def with_attention(lane: Lane, attention: Mapping[str, np.ndarray]) -> Lane:
    """Returns a lane whose numbers have the attention of channels, where there is any."""
    if not attention:
        return lane
    numbers = lane.hparams.regularisers | {"attention": {unit: np.asarray(of) for unit, of in attention.items()}}
    return dataclasses.replace(lane, hparams=lane.hparams._replace(regularisers=numbers))


def load_own_head(weights: Any, model: Network) -> dict[str, Any]:
    """Returns the leaves of the classifier that a weight file has, by name; none where it has none."""
    import jax.numpy as jnp

    tensors, manifest = read_file(weights, model)
    _, flat = fit(tensors, model, manifest)
    refuse_damaged(flat, weights)
    return {name.partition("/")[2]: jnp.asarray(leaf) for name, leaf in flat.items() if is_head(name, model)}


def can_start(trial: PlannedTrial, store: Store) -> bool:
    """Tells whether the weights that a trial starts from are there."""
    if not trial.starts_from_source or trial.source.trained is None:
        return True
    return store.weights_path(trial.source.digest, "sources").is_file()


def make_lane(planned: PlannedTrial, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> Lane:
    import jax

    trial, training = planned.trial, planned.trial.training
    return Lane(
        params=dict(params),
        batch_stats=dict(batch_stats),
        hparams=make_hparams(training, planned.layers, loss_weights(planned)),
        labels=planned.split.labels,
        train=planned.split.train,
        val=planned.split.val,
        test=planned.split.test,
        order_seed=trial.stream_seed("order"),
        augment_key=jax.random.key_data(stream_key("augment", trial.stream_seed("augment"))),
        balanced=training.batches.sampling == "balanced",
        name=planned.digest,
    )


def loss_weights(planned: PlannedTrial) -> np.ndarray:
    """Returns how much each class weighs in a trial's loss: [classes], or 1 where they all weigh the same."""
    training, split = planned.trial.training, planned.split
    if training.loss.class_weights == "none":
        return np.ones((), np.float32)
    of_train = split.labels[split.train]
    return class_weights(of_train, planned.model.num_classes, training.loss.class_weights, training.loss.beta)


def stream_key(stream: str, seed: int) -> Any:
    """Returns the JAX key of a named stream of random numbers."""
    import jax

    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
