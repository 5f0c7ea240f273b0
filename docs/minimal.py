"""Fine-tunes a pretrained network in plain JAX, Flax and Optax, with functions of jaxft: python docs/minimal.py

Without arguments, the script pretrains a small network on the digits 0 to 4 and fine-tunes it on the digits 5 to 9,
with 40 images per class. `python docs/minimal.py resnet18 resnet18.safetensors` fine-tunes the given weights.

A trial of a study with the same settings ends with the same weights (tests/training/test_minimal.py).
"""

import dataclasses
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft import UserError, create_model, save_weights
from jaxft.config import Images
from jaxft.core.paths import flatten, unflatten
from jaxft.data.augmentation.augment import Augmentations, augment
from jaxft.data.batches import StepRange, batch_indices
from jaxft.data.sampling.drawing import SampledImages, draw
from jaxft.models import Network, Preprocessing
from jaxft.models.initialization import init_variables
from jaxft.weights import load


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of training; the config of a study has them in the sections of `training`."""

    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    num_steps: int = 60
    batch_size: int = 32
    augmentations: Augmentations = Augmentations.of({"crop.padding_px": 2})  # noqa: RUF009
    seed: int = 0


def stream_key(stream: str, seed: int) -> jax.Array:
    """Returns the random key of a named stream; with separate streams, one can be fixed while another varies."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))


def make_optimizer(model: Network, settings: Settings) -> optax.GradientTransformation:
    """Returns SGD with momentum, a cosine schedule, and weight decay of the kernels only."""

    def decayed(params: Any) -> Any:
        return unflatten({name: name in model.decayed for name in flatten(params)})

    return optax.chain(
        optax.add_decayed_weights(settings.weight_decay, mask=decayed),
        optax.sgd(optax.cosine_decay_schedule(settings.learning_rate, settings.num_steps), settings.momentum),
    )


def train(
    model: Network, preprocessing: Preprocessing, variables: Any, sampled: SampledImages, settings: Settings
) -> Any:
    """Returns the variables `{'params': ..., 'batch_stats': ...}` after training on the split's training images."""
    tx, augmentations = make_optimizer(model, settings), settings.augmentations
    images, labels = jnp.asarray(sampled.images.images), jnp.asarray(sampled.split.labels)

    def loss_fn(params: Any, batch_stats: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Any]:
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats}, preprocessing.apply(x), train=True, mutable=["batch_stats"]
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), updated.get("batch_stats", {})

    @jax.jit
    def train_step(params: Any, batch_stats: Any, opt_state: Any, rows: jax.Array, key: jax.Array) -> Any:
        x = augment(key, images[rows], augmentations)
        (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch_stats, x, labels[rows])
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), batch_stats, opt_state, loss

    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    opt_state = tx.init(params)
    order = batch_indices(sampled.split.train, settings.seed, StepRange(0, settings.num_steps, settings.batch_size))
    key = jax.random.fold_in(stream_key("augment", settings.seed), 0)  # 0: the first training phase
    for step, rows in enumerate(order):
        step_key = jax.random.fold_in(key, step)
        params, batch_stats, opt_state, loss = train_step(params, batch_stats, opt_state, rows, step_key)
        if step % 20 == 0:
            print(f"step {step:3d}: loss {loss:.3f}")
    return {"params": params, "batch_stats": batch_stats}


def fine_tune(
    model: Network, weights: Path | str, sampled: SampledImages, settings: Settings
) -> tuple[Any, Preprocessing]:
    """Returns variables and preprocessing after fine-tuning all layers of a pretrained network with a new head."""
    size_px = sampled.images.images.shape[1]
    key = stream_key("init", settings.seed)
    variables, manifest = load(weights, model, head="new", key=key, size_px=size_px)
    preprocessing = dataclasses.replace(manifest.preprocessing, size_px=size_px)
    return train(model, preprocessing, variables, sampled, settings), preprocessing


def accuracy(model: Network, preprocessing: Preprocessing, variables: Any, sampled: SampledImages) -> float:
    """Returns the accuracy on the split's test images, in [0, 1]."""
    predict = jax.jit(lambda x: model.apply(variables, preprocessing.apply(x)).argmax(-1))
    rows = sampled.split.test
    parts = [predict(jnp.asarray(sampled.images.images[part])) for part in np.array_split(rows, -(-len(rows) // 100))]
    return float(np.mean(np.concatenate(parts) == sampled.split.labels[rows]))


def pretrain(name: str, path: Path) -> None:
    """Trains a network on the digits 0 to 4 from random weights, and writes the trained weights to `path`."""
    sampled = draw(Images("digits", classes=tuple("01234"), train_per_class=100), seed=0, size_px=32)
    model = create_model(name, num_classes=5)
    variables = init_variables(model, stream_key("init", 0), size_px=32)
    save_weights(path, model, train(model, model.preprocessing, variables, sampled, Settings()))


def main(arguments: list[str]) -> None:
    """Fine-tunes a network and prints its test accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        name, weights = arguments or ("cifar_resnet8", Path(folder) / "digits.safetensors")
        if not arguments:
            pretrain(name, Path(weights))
        model = create_model(name, num_classes=5)
        size_px = model.preprocessing.size_px
        sampled = draw(Images("digits", classes=tuple("56789"), train_per_class=40), seed=0, size_px=size_px)
        variables, preprocessing = fine_tune(model, weights, sampled, Settings(learning_rate=0.02))
    print(f"test accuracy {accuracy(model, preprocessing, variables, sampled):.1%}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
