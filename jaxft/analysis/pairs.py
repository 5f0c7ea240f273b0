"""Distances and cosines between all pairs of runs, per layer, and distances to reference weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.analysis.alignment import aligned
from jaxft.analysis.sources import Source, load_ahead, load_source, stack_runs
from jaxft.core.paths import layer_of
from jaxft.core.text import byte_size
from jaxft.ops.precision import at_least_float32, true_products

TOTAL = "total"
MAX_BYTES = 4_000_000_000
CHUNK = 1 << 15  # values of a row that are multiplied at a time, so that differences to w0 stay in the cache of a CPU
Grams = dict[str, np.ndarray]  # {layer: [rows, rows] float64}
Pairs = dict[str, dict[str, np.ndarray]]


def pairs(after: Any, references: Mapping[str, Any]) -> Pairs:
    """Returns {layer: {measure: matrix}} of R runs in memory, for each layer and in 'total'.

    With d_i = w_i - w0, where w0 is the first reference, the measures are

    - 'distance' [R, R]: ||w_i - w_j||,
    - 'cosine' [R, R]: w_i . w_j / (||w_i|| ||w_j||); nan if one is zero,
    - 'change_cosine' [R, R]: d_i . d_j / (||d_i|| ||d_j||); nan if one is zero,
    - 'distance to NAME' [R]: the distance to each reference, such as the pretrained and a random initialization.

    They follow from one matrix product of the d_i in float32. Distances from products of the weights would cancel; with
    products of the d_i, the error of ||w_i - w_j||^2 is about 1e-7 (||d_i||^2 + ||d_j||^2).
    `parameters.pairwise_distances` has no such error, but takes much longer.

    Args:
      after: a tree of arrays [R, ...].
      references: trees of arrays [...] by name, at least one; the first one is w0.

    Raises:
      ValueError: there is no reference, or the leaves or shapes differ.
    """
    start, extras = _references(references)
    w0, w, has_runs = aligned(start, after)
    if not has_runs:
        raise ValueError("`after` has no leading axis of runs; give one in every leaf.")
    stacked = stack_runs(extras)
    products = {name: _products(w0[name], leaf, extras=stacked[name]) for name, leaf in w.items()}
    return _measures(_by_layer(products), len(next(iter(w.values()))), tuple(references))


def streamed_pairs(sources: Sequence[Source], references: Mapping[str, Source], max_bytes: int = MAX_BYTES) -> Pairs:
    """Returns the result of `pairs` for more runs than fit into memory.

    The runs are loaded in blocks. Every pair of blocks is in memory together once, so with B blocks, a run is loaded
    at most B times.

    Args:
      sources: R runs; each is a tree, a function that returns a tree, or the path of a safetensors file.
      references: sources by name, at least one; the first one is w0.
      max_bytes: the memory for the weights of two blocks and one run, in bytes.

    Raises:
      ValueError: there are no runs or no reference, the leaves or shapes differ, or `max_bytes` is less than the memory
        for three runs.
    """
    if not sources:
        raise ValueError("there are no runs to compare.")
    w0, extras = _references(references)
    num_bytes = sum(leaf.nbytes for leaf in w0.values())
    size = (max_bytes - num_bytes) // max(2 * num_bytes, 1)
    if size < 1:
        raise ValueError(f"`max_bytes` is {byte_size(max_bytes)}, but three runs take {byte_size(3 * num_bytes)}.")
    rows = [*sources, *extras]
    blocks = [range(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
    grams: Grams = {}
    for i, first in enumerate(blocks):
        left = _load_block(w0, [rows[row] for row in first])
        for second in blocks[i:]:
            right = {} if second is first else _load_block(w0, [rows[row] for row in second])
            products = {name: _products(w0[name], left[name], right.get(name)) for name in w0}
            for layer, block in _by_layer(products).items():
                gram = grams.setdefault(layer, np.zeros((len(rows), len(rows))))
                gram[np.ix_(first, second)] = block
                gram[np.ix_(second, first)] = block.T
    return _measures(grams, len(sources), tuple(references))


def _references(references: Mapping[str, Source]) -> tuple[dict[str, jax.Array], list[dict[str, jax.Array]]]:
    """Returns w0, and the rows that `_measures` needs after the runs: zeros, and the other references."""
    if not references:
        raise ValueError("`references` is empty; give at least the weights before training.")
    w0, *others = (jax.tree.map(jnp.asarray, load_source(reference)) for reference in references.values())
    for leaves in others:
        aligned(w0, leaves)
    return w0, [jax.tree.map(jnp.zeros_like, w0), *others]


def _load_block(w0: Mapping[str, jax.Array], sources: Sequence[Source]) -> dict[str, jax.Array]:
    """Returns the leaves [block, ...] of several sources."""
    runs = []
    for leaves in load_ahead(sources):
        aligned(w0, leaves)
        runs.append(leaves)
    return stack_runs(runs)


@jax.jit
@true_products
def _products(
    w0: jax.Array, left: jax.Array, right: jax.Array | None = None, extras: jax.Array | None = None
) -> jax.Array:
    """Returns [left + extras, right + extras], the inner products of the differences of rows to w0, of a leaf.

    If `right` is None, it is `left`.
    """

    def rows_of(leaves: jax.Array) -> list[jax.Array]:
        together = [leaves] if extras is None else [leaves, extras]
        return [at_least_float32(rows.reshape(len(rows), w0.size)) for rows in together]

    start, first, second = at_least_float32(w0.reshape(1, -1)), rows_of(left), None if right is None else rows_of(right)

    def product(begin: Any, count: int) -> jax.Array:
        def differences(groups: list[jax.Array]) -> jax.Array:
            sliced = [jax.lax.dynamic_slice_in_dim(rows, begin, count, 1) for rows in (start, *groups)]
            return jnp.concatenate(sliced[1:]) - sliced[0]

        a = differences(first)
        b = a if second is None else differences(second)
        return jnp.einsum("in,jn->ij", a, b)

    whole, rest = divmod(w0.size, CHUNK)
    total = product(whole * CHUNK, rest)
    if not whole:
        return total
    return jax.lax.fori_loop(0, whole, lambda i, total: total + product(i * CHUNK, CHUNK), total)


def _by_layer(products: Mapping[str, jax.Array]) -> Grams:
    """Returns the sums over the leaves of each layer, and over all leaves."""
    layers: Grams = {}
    for name, product in jax.device_get(dict(products)).items():
        for layer in (layer_of(name), TOTAL):
            layers[layer] = layers.get(layer, 0) + product.astype(np.float64)
    return layers


def _measures(grams: Grams, num_runs: int, references: Sequence[str]) -> Pairs:
    """Returns the result of `pairs` from inner products of differences to w0.

    The rows of a matrix are the runs, a row of zeros (whose difference to w0 is -w0), and the other references.
    """
    matrices: Pairs = {}
    for layer in [*(layer for layer in grams if layer != TOTAL), *([TOTAL] if TOTAL in grams else [])]:
        gram = (grams[layer] + grams[layer].T) / 2
        squares = np.diag(gram)
        distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * gram, 0))
        changes = gram[:num_runs, :num_runs]
        shift = gram[:num_runs, num_runs]  # -w0 . d_i
        weights = changes - shift[:, None] - shift[None] + squares[num_runs]
        matrices[layer] = {
            "distance": distances[:num_runs, :num_runs],
            "cosine": _cosines(weights),
            "change_cosine": _cosines(changes),
            f"distance to {references[0]}": np.sqrt(squares[:num_runs]),
        }
        for i, name in enumerate(references[1:], num_runs + 1):
            matrices[layer][f"distance to {name}"] = distances[:num_runs, i]
    return matrices


def _cosines(products: np.ndarray) -> np.ndarray:
    """Returns the cosines of vectors from their inner products, both [R, R]."""
    norms = np.sqrt(np.maximum(np.diag(products), 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(products / (norms[:, None] * norms[None]), -1, 1)
