"""Initial arrays of trials: source weights, head, LoRA factors, arrays of regularizers; and their images."""

import dataclasses
import functools
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.core import events
from jaxft.data.batches import class_weights
from jaxft.data.streaming import put_or_stream
from jaxft.models import Network, create_model
from jaxft.store.records import Store
from jaxft.study.chunk.lanes import Lane
from jaxft.study.planned import PlannedSource, PlannedTrial
from jaxft.study.services import Services
from jaxft.training.adapters import init_adapters, is_adapter
from jaxft.training.head_initialization import initial_head
from jaxft.training.hparams import make_hparams
from jaxft.training.initialization import initial_variables, split_collections
from jaxft.training.regularizers.active import measure, measured_shapes
from jaxft.training.training_images import TrainingImages
from jaxft.weights import ReadOptions, is_head, load_flat, port_with_head, read_file, refuse_damaged


class TrialLoader:
    """Loads the initial arrays and the images of trials. Consecutive trials share the arrays of a source or image set.

    Attributes:
      store: contains the weights of trained sources.
      services: feature cache, listener and clock.
      device_data_bytes: larger image sets are streamed.
    """

    def __init__(self, store: Store, services: Services, device_data_bytes: float):
        self.store, self.services, self.device_data_bytes = store, services, device_data_bytes
        self._images: tuple[str, Any] = ("", None)
        self._load_backbone = functools.lru_cache(maxsize=1)(load_backbone)
        self._load_head = functools.lru_cache(maxsize=1)(load_source_head)
        self._measurements: dict[Any, dict[str, dict[str, np.ndarray]]] = {}

    def images_of(self, trial: PlannedTrial) -> Any:
        """Returns the images of a trial: [n, h, w, 3] uint8 on the device, or a stream.

        They stay on the device until the images of another set are loaded. A set that takes more than
        `execution.device_data_bytes` is streamed.
        """
        if self._images[0] != trial.images.fingerprint:
            self._images = "", None
            pixels = put_or_stream(trial.images.images, self.device_data_bytes)
            self._images = trial.images.fingerprint, pixels
        return self._images[1]

    def lane(self, planned: PlannedTrial) -> Lane:
        """Returns the initial arrays of a trial."""
        training, start = planned.trial.training, self.initial_variables(planned)
        params = start["params"]
        if training.initialization.head != "lecun":
            params = params | initial_head(training, self._training_images(planned, start))
        key = stream_key("init", planned.trial.stream_seed("init"))
        params = params | init_adapters(filter(is_adapter, planned.layers), params, training.layers.lora_rank, key)
        lane = make_lane(planned, params, start["batch_stats"])
        if not any(phase.source_needs for phase in planned.program.phases):
            return lane
        source = split_collections(self._backbone_of(planned.source))
        size_px = planned.source.preprocessing.size_px
        source["params"].update(self._load_head(*self._weights_of(planned.source), size_px))
        lane = dataclasses.replace(lane, source=source)
        return with_measured(lane, self._measured(planned, source))

    def initial_variables(self, planned: PlannedTrial) -> dict[str, dict[str, Any]]:
        """Returns the initial `params` and `batch_stats` of a trial as flat dicts, with a randomly initialized head."""
        key = stream_key("init", planned.trial.stream_seed("init"))
        backbone = self._backbone_of(planned.source) if planned.starts_from_source else None
        return initial_variables(planned.model, planned.trial.training, key, planned.size_px, backbone)

    def _backbone_of(self, source: PlannedSource) -> Mapping[str, Any]:
        """Returns the backbone leaves of the source weights, by name with their collection."""
        return self._load_backbone(*self._weights_of(source))

    def _weights_of(self, source: PlannedSource) -> tuple[Any, Network, str | None]:
        """Returns the path of the source weights, the network (with any number of classes), and the state dict."""
        path = self.store.weights_path(source.digest, "sources") if source.trained else source.path
        return path, create_model(source.model, 2), source.state_dict

    def _training_images(self, planned: PlannedTrial, variables: Mapping[str, Mapping[str, Any]]) -> TrainingImages:
        """Returns the training images of a trial, together with its network and `variables`."""
        train, labels = planned.split.train, planned.split.labels
        return TrainingImages(
            planned.model,
            planned.program.phases[-1].preprocessing,
            variables,
            self.images_of(planned),
            planned.images.fingerprint,
            train,
            labels[train],
            self.services.cache,
        )

    def _measured(self, planned: PlannedTrial, source: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the arrays that regularizers measure before training, once for each source and split."""
        phases = [phase.regularizers for phase in planned.program.phases]
        shapes = measured_shapes(phases, planned.model, planned.size_px)
        preprocessing = planned.program.phases[-1].preprocessing
        key = planned.source.digest, planned.images.fingerprint, planned.split.digest, preprocessing, repr(shapes)
        if shapes and key not in self._measurements:
            self.services.emit(events.Working("measuring the attention of channels"))
            with self.services.clock.measure("attention"):
                self._measurements[key] = measure(phases, self._training_images(planned, source))
        return self._measurements[key] if shapes else {}


def with_measured(lane: Lane, measured: Mapping[str, Mapping[str, Any]]) -> Lane:
    """Returns the arrays of a trial, with the arrays that regularizers measured in its hyperparameters.

    `measured` maps the name of a regularizer to its arrays, of any shape, by name.
    """
    by_regularizer = {
        name: {array_name: np.asarray(values) for array_name, values in arrays.items()}
        for name, arrays in measured.items()
    }
    return dataclasses.replace(lane, hparams=lane.hparams._replace(measured=by_regularizer))


def load_backbone(weights: Any, model: Network, state_dict: str | None) -> dict[str, Any]:
    """Returns the leaves of the backbone in a weight file by name with their collection; see `load_flat`."""
    return load_flat(weights, model, "new", options=ReadOptions(state_dict))[0]


def load_source_head(weights: Any, model: Network, state_dict: str | None, size_px: int) -> dict[str, Any]:
    """Returns the leaves of the head in a weight file by name; empty if the file has no head.

    Args:
      weights: the path of the weight file.
      model: the network, with any number of classes.
      state_dict: see `jaxft.load_weights`.
      size_px: side of the images that the head is for, in pixels.

    Raises:
      UserError: the file does not fit the network, or a leaf of the head is damaged.
    """
    tensors, manifest = read_file(weights, model, ReadOptions(state_dict, {"size_px": size_px}))
    _, flat = port_with_head(tensors, model, manifest.without_foreign())  # the plan has reported foreign tensors
    refuse_damaged(flat, weights)
    return {name.partition("/")[2]: jnp.asarray(leaf) for name, leaf in flat.items() if is_head(name, model)}


def has_initial_weights(trial: PlannedTrial, store: Store) -> bool:
    """Returns whether the weights that a trial starts from exist."""
    if not trial.starts_from_source or trial.source.trained is None:
        return True
    return store.weights_path(trial.source.digest, "sources").is_file()


def make_lane(planned: PlannedTrial, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> Lane:
    """Returns the arrays of a trial from its initial parameters and statistics, flat dicts of arrays of any shape."""
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
    """Returns the class weights of the loss: [classes] float32, or a scalar 1 if all classes have equal weight."""
    training, split = planned.trial.training, planned.split
    if training.loss.class_weights == "none":
        return np.ones((), np.float32)
    train_labels = split.labels[split.train]
    return class_weights(train_labels, planned.model.num_classes, training.loss.class_weights, training.loss.beta)


def stream_key(stream: str, seed: int) -> Any:
    """Returns the JAX key of a named random stream."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
