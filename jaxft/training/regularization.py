"""Regularisers of fine-tuning, most of them towards the source: terms of the loss, and noise inside the network.

Which of them act in a phase is static (`Regularisers`); how strongly is traced, and part of a trial's `HParams`
(`make_numbers`), which has nothing of those that do not act. What they need of the source is shared by all trials that
run side by side (`Reference`). None of them acts while the head is probed.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.analysis import linear
from jaxft.config import Training
from jaxft.core.errors import UserError
from jaxft.core.paths import unflatten
from jaxft.core.rules import Rule, match_rules
from jaxft.data.augmentation.augment import Changes
from jaxft.data.streaming import Pixels
from jaxft.features.cache import FeatureCache
from jaxft.features.prefix import Prefix
from jaxft.models import Network, Preprocessing, unit_of
from jaxft.models.growth import NEW_UNITS
from jaxft.ops.precision import true_products
from jaxft.training.adapters import is_adapter, kernel_of

Flat = Mapping[str, jax.Array]
REST = ".*"  # the pattern of what no rule of L2-SP names
ATTENTION_IMAGES = 256  # most that a channel's attention is measured on
ATTENTION_BATCH = 64
PROBE_DECAY = 0.01  # of the linear probe that attention is measured with


@dataclass(frozen=True)
class Regularisers:
    """Which regularisers act in a phase.

    Attributes:
      pulled: leaves of the network that L2-SP pulls to the source, each with the pattern of its strength.
      head_decay: whether it pulls the head to zero.
      maps: units whose outputs DELTA pulls to the source's.
      bss: how many singular values BSS penalises.
      distillation: whether the source's head has to say what it said.
      dropout: whether inputs of the head are dropped.
      blocks: residual blocks that a batch may skip.
    """

    pulled: tuple[tuple[str, str], ...] = ()
    head_decay: bool = False
    maps: tuple[str, ...] = ()
    bss: int = 0
    distillation: bool = False
    dropout: bool = False
    blocks: tuple[str, ...] = ()

    @property
    def needs_source(self) -> bool:
        """Tells whether something of the source is needed."""
        return bool(self.pulled or self.maps or self.distillation)

    @property
    def is_random(self) -> bool:
        """Tells whether chance decides what the network computes in training."""
        return self.dropout or bool(self.blocks)

    def outputs(self, model: Network) -> tuple[str, ...]:
        """Returns the units whose outputs are looked at."""
        features = self.bss or self.distillation or self.dropout
        return (*self.maps, *[model.feature_block] * bool(features))


class Reference(NamedTuple):
    """What the regularisers of a phase need of the source.

    Attributes:
      params, batch_stats: leaves of the source's network by name, its own head's too.
      logits: [m, classes of the source], what its head said of the images to train on, before training.
      logit_rows: [rows] int32, which of them is that of a row of the phase's images (`execute.Feed`).
      maps: {unit: [k, h, w, c]}, the source's feature maps; empty where images vary: then the source is run at each
        step, which is a further forward pass.
      map_rows: as `logit_rows`.
    """

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    logits: Any = None
    logit_rows: Any = None
    maps: dict[str, Any] | None = None
    map_rows: Any = None


def make_regularisers(
    model: Network, training: Training, names: Sequence[str], trained: Collection[str], prefix: str | None
) -> Regularisers:
    """Returns what acts in a phase that trains the leaves `trained`, of `names`, above the frozen `prefix`.

    Where a change of a kernel trains (`jaxft.training.adapters`), L2-SP pulls the kernel that it makes: the change to
    zero.
    Units that the source does not have are not pulled.

    Raises a `UserError` for a rule of L2-SP that decides nothing, and where there is no residual block to skip.
    """
    head, features = model.head, model.feature_block
    live = model.units[model.units.index(prefix) + 1 :] if prefix else model.units
    if training.regularization.stochastic_depth.rate and not model.residual_blocks:
        raise UserError(
            f"'training.regularization.stochastic_depth.rate' is {training.regularization.stochastic_depth.rate:g}, "
            f"but {model.architecture} has no residual blocks that could be skipped; leave it out."
        )
    pulled: tuple[tuple[str, str], ...] = ()
    if training.regularization.l2_sp.strength or training.regularization.l2_sp.rules:
        others = f"{head}/.*" if training.initialization.grow == "none" else f"{head}/.*|{NEW_UNITS}.*"
        rules = [Rule(others, 0.0, optional=True)]  # of which the source has no counterpart
        rules += [Rule(pattern, strength) for pattern, strength in training.regularization.l2_sp.rules]
        of_network = [name for name in names if not is_adapter(name)]
        matches = match_rules(
            [*rules, Rule(REST, training.regularization.l2_sp.strength, optional=True)], of_network, "L2-SP rule"
        )
        moving = {kernel_of(name) if is_adapter(name) else name for name in trained}
        pulled = tuple((name, matches[name].pattern) for name in sorted(moving) if matches[name].value)
    taps = [tap.unit for tap in model.taps if tap.unit in live and tap.unit != model.units[0]]
    return Regularisers(
        pulled,
        training.regularization.l2_sp.head > 0,
        tuple(taps) if training.regularization.delta.strength else (),
        training.regularization.bss.count if training.regularization.bss.strength and features in live else 0,
        training.regularization.distillation.strength > 0 and features in live,
        training.regularization.dropout.rate > 0,
        tuple(block for block in model.residual_blocks if unit_of(f"{block}/", model.units) in live)
        if training.regularization.stochastic_depth.rate
        else (),
    )


def make_numbers(training: Training) -> dict[str, Any]:
    """Returns the strengths of the regularisers that act, float32 scalars; of L2-SP by the pattern of its rules."""
    terms = training.regularization
    strengths_of = {
        "l2_sp_head": terms.l2_sp.head,
        "delta": terms.delta.strength,
        "bss": terms.bss.strength,
        "distillation": terms.distillation.strength,
        "dropout": terms.dropout.rate,
        "stochastic_depth": terms.stochastic_depth.rate,
    }
    found: dict[str, Any] = {name: jnp.float32(value) for name, value in strengths_of.items() if value}
    if training.regularization.distillation.strength:
        found["distillation_temperature"] = jnp.float32(training.regularization.distillation.temperature)
    strengths = {REST: training.regularization.l2_sp.strength} | dict(reversed(training.regularization.l2_sp.rules))
    if any(strengths.values()):
        found["l2_sp"] = {pattern: jnp.float32(strength) for pattern, strength in strengths.items() if strength}
    return found


# --- terms of the loss ------------------------------------------------------------------------------------------


def squared_distance(params: Flat, start: Flat, strengths: Mapping[str, Any]) -> jax.Array:
    """Returns the sum over the leaves named in `strengths` of strength / 2 ||w - w0||^2.

    The first term of L2-SP (Li, Grandvalet & Davoine 2018, section 3.2), whose alpha may differ from leaf to leaf. All
    leaves below the head have a counterpart in the source: kernels, biases, scales and shifts.
    """
    return sum(
        (strength / 2 * jnp.square(params[name] - start[name]).sum() for name, strength in strengths.items()),
        jnp.float32(0),
    )


def map_distance(maps: Flat, source_maps: Flat, attention: Mapping[str, jax.Array]) -> jax.Array:
    """Returns sum_j W_j ||FM_j(w) - FM_j(w0)||^2 over the channels j of all units, mean over the images.

    Args:
      maps: {unit: [n, ..., channels]}, and those of the source.
      attention: {unit: [channels]}, the W_j.

    DELTA (Li et al. 2019, section 3.2). The authors' code divides by the places of a map, multiplies by its channels
    and sums over the images; the paper does not.
    """
    total = jnp.float32(0)
    for unit, weights in attention.items():
        squares = jnp.square(maps[unit] - jax.lax.stop_gradient(source_maps[unit]))
        total += (squares.sum(tuple(range(1, squares.ndim - 1))) @ weights).mean()
    return total


def smallest_singular_values(features: jax.Array, count: int) -> jax.Array:
    """Returns the sum of the squares of the `count` smallest singular values of `features: [n, d]`.

    BSS (Chen et al. 2019, section 4); there are min(n, d) of them. Not by the eigenvalues of the Gram matrix, which in
    float32 lose those that are small.
    """
    return jnp.square(jnp.linalg.svd(features, compute_uv=False)[-count:]).sum()


def distillation_loss(logits: jax.Array, recorded: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """Returns [n], the cross-entropy of what is said (`logits: [n, classes]`) and what was said before training.

    Both are softmax(logits / temperature), which are the shares to the power 1 / temperature, normalised (Li & Hoiem
    2016, section 3; there the temperature is 2).
    """
    before = jax.nn.softmax(recorded / temperature)
    return -(before * jax.nn.log_softmax(logits / temperature)).sum(-1)


def pooled(x: jax.Array) -> jax.Array:
    """Returns what enters a head as [n, features]; of a map the mean over its places."""
    return x.reshape(len(x), -1, x.shape[-1]).mean(1)


def penalty(
    regularisers: Regularisers,
    numbers: Mapping[str, Any],
    model: Network,
    params: Flat,
    outputs: Flat,
    reference: Reference | None,
    source_maps: Callable[[], Flat],
    distilled: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Returns what the regularisers add to the loss of a batch.

    Args:
      outputs: those of `regularisers.outputs` for the batch.
      source_maps: returns the source's for the same images.
      distilled: returns the distillation loss of the batch for the logits of the source's head.
    """
    total = jnp.float32(0)
    if regularisers.pulled and reference is not None:
        strengths = {name: numbers["l2_sp"][pattern] for name, pattern in regularisers.pulled}
        total += squared_distance(params, reference.params, strengths)
    if regularisers.head_decay:
        own = {name: leaf for name, leaf in params.items() if model.in_head(name)}
        zero = dict.fromkeys(own, jnp.float32(0))
        total += squared_distance(own, zero, dict.fromkeys(own, numbers["l2_sp_head"]))
    if regularisers.maps:
        attention = {unit: numbers["attention"][unit] for unit in regularisers.maps}
        total += numbers["delta"] * map_distance(outputs, source_maps(), attention)
    if regularisers.bss:
        total += numbers["bss"] * smallest_singular_values(pooled(outputs[model.feature_block]), regularisers.bss)
    if regularisers.distillation and reference is not None:
        head = {name: leaf for name, leaf in reference.params.items() if model.in_head(name)}
        logits = source_network(model, head).apply(
            {"params": unflatten(head)}, outputs[model.feature_block], start=model.head
        )
        total += numbers["distillation"] * distilled(logits)
    return total


def source_network(model: Network, params: Mapping[str, Any]) -> Network:
    """Returns `model` with as many classes as the head among the leaves `params`."""
    in_head = next(leaf for name, leaf in params.items() if model.in_head(name))
    return model.clone(num_classes=in_head.shape[-1])


# --- noise inside the network -----------------------------------------------------------------------------------


def drop(key: jax.Array, x: jax.Array, rate: jax.Array | float, places: jax.Array) -> jax.Array:
    """Returns `x: [n, ...]` with a share of `rate` of its values set to zero and the others divided by 1 - rate.

    Dropout (Srivastava et al. 2014, section 10: scaled in training, so that nothing changes in evaluation). Which they
    are depends on the key and an image's place in the batch, `places: [n]`, alone.
    """
    kept = (
        jax.vmap(lambda place: jax.random.uniform(jax.random.fold_in(key, place), x.shape[1:], jnp.float32))(places)
        >= rate
    )
    return jnp.where(kept, x / (1 - rate), 0.0)


def branch_factors(
    key: jax.Array, model: Network, blocks: Sequence[str], rate: jax.Array | float
) -> dict[str, jax.Array]:
    """Returns {block: factor of its residual branch} for a batch, for the collection `branches`: 0, or 1 / p.

    The l-th of a network's L blocks is there with p_l = 1 - l/L rate (stochastic depth; Huang et al. 2016, equation 4,
    where `rate` is 1 - p_L). There branches are multiplied by p_l in evaluation; here they are divided by it in
    training, since what was pretrained without it, and what is exported, should stay the network that it is. A branch
    that is skipped is computed all the same, and its batch-norm statistics move.
    """
    depth = {block: number for number, block in enumerate(model.residual_blocks, 1)}
    found = {}
    for block in blocks:
        kept = 1 - depth[block] / len(depth) * rate
        there = jax.random.uniform(jax.random.fold_in(key, depth[block]), dtype=jnp.float32) < kept
        found[block] = jnp.where(there, 1 / kept, 0.0)
    return found


# --- the attention of DELTA -------------------------------------------------------------------------------------


def channel_attention(
    model: Network,
    preprocessing: Preprocessing,
    variables: Mapping[str, Mapping[str, Any]],
    units: Sequence[str],
    images: Pixels,
    fingerprint: str,
    rows: np.ndarray,
    labels: np.ndarray,
    cache: FeatureCache,
) -> dict[str, np.ndarray]:
    """Returns {unit: [channels] float32}, how much each channel of the source matters to the target, summing to 1.

    W_j is the softmax over a unit's channels of how much the loss rises when channel j is set to zero, under a linear
    probe on the source's features (Li et al. 2019, section 3.3). The probe is a logistic regression on all training
    images; the loss is the mean over at most 256 of them, evenly spaced, as they are without random changes (in the
    paper W_j is an image's own; the authors' code has the mean too, and divides by 5 before the softmax). It takes a
    forward pass from the unit on for each of its channels.

    Args:
      variables: flat `params` and `batch_stats` of the source.
      images: [n, h, w, 3] uint8, or a stream of as many; `fingerprint` identifies them.
      rows: [m] images to train on; `labels`: [m] their classes.
    """
    changes = Changes(crop_px=preprocessing.size_px if images.shape[1] != preprocessing.size_px else None)

    def outputs(unit: str, rows: np.ndarray) -> np.ndarray:
        key = jax.random.PRNGKey(0)  # of views, of which the first is the image itself
        return cache.outputs(Prefix(model, preprocessing, unit, variables, images, fingerprint, changes, key), rows)

    features = np.asarray(pooled(jnp.asarray(outputs(model.feature_block, rows))))
    probe = linear.fit("logistic", features, labels, int(labels.max()) + 1, [PROBE_DECAY])
    kernel, bias = jnp.asarray(probe.kernel[0]), jnp.asarray(probe.bias[0])
    size = min(ATTENTION_BATCH, len(rows))
    count = min(len(rows), ATTENTION_IMAGES) // size * size
    chosen = np.linspace(0, len(rows) - 1, count).round().astype(int)
    nested = {collection: unflatten(leaves) for collection, leaves in variables.items()}
    found = {}
    for unit in units:
        loss = functools.partial(_make_masked_loss(model, unit), nested, kernel, bias)
        x = outputs(unit, rows[chosen])
        batches = [
            (jnp.asarray(x[i : i + size]), jnp.asarray(labels[chosen[i : i + size]])) for i in range(0, count, size)
        ]
        masks = 1 - np.eye(x.shape[-1] + 1, x.shape[-1], dtype=np.float32)  # the last of which drops none
        losses = np.array([np.mean([float(loss(*batch, jnp.asarray(mask))) for batch in batches]) for mask in masks])
        rise = losses[:-1] - losses[-1]
        shares = np.exp(rise - rise.max())
        found[unit] = (shares / shares.sum()).astype(np.float32)
    return found


@functools.cache
def _make_masked_loss(model: Network, unit: str) -> Callable[..., jax.Array]:
    """Returns `masked_loss(variables, kernel, bias, x, labels, kept)`, under a linear probe of what leaves the pool.

    x: [n, height, width, channels], what leaves `unit`; kept: [channels], 0 for those that are set to zero.
    """
    place = model.units.index(unit) + 1

    @jax.jit
    @true_products
    def masked_loss(
        variables: Any, kernel: jax.Array, bias: jax.Array, x: jax.Array, labels: jax.Array, kept: jax.Array
    ) -> jax.Array:
        x = x * kept.reshape((1,) * (x.ndim - 1) + (-1,))
        if place < model.units.index(model.head):
            x = model.apply(variables, x, start=model.units[place], stop=model.feature_block)
        shares = jax.nn.log_softmax(pooled(x) @ kernel + bias.reshape(1, -1))
        return -jnp.take_along_axis(shares, labels.reshape(-1, 1), axis=1).mean()

    return masked_loss
