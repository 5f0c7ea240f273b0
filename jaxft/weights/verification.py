"""Checks of a weight file: integrity, tensors, values, a forward pass, and agreement with reference logits."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.core.errors import UserError
from jaxft.core.npz import load_npz
from jaxft.core.paths import unflatten
from jaxft.core.reading import DAMAGE, Unreadable
from jaxft.core.text import some_of
from jaxft.models import Network, create_model
from jaxft.weights.damage import damaged_values
from jaxft.weights.loading import read_file
from jaxft.weights.manifest import Manifest
from jaxft.weights.opening import open_file
from jaxft.weights.options import ReadOptions
from jaxft.weights.porting import port_with_head
from jaxft.weights.published import find_model

TOLERANCE = 1e-4  # largest max|a-b| / max|b| of the logits, in float32

NO_CHECKSUM = "the file has no checksum"
MOST_NAMED = 3  # damaged leaves named in a check


class Check(NamedTuple):
    """The result of a check: its name, whether the file passed, and a detail to print."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, eq=False)
class Verification:
    """The checks of a weight file, in two parts: the file itself, and whether it fits a network.

    Attributes:
      checks: the results of the checks. They end with the first check without which the others are impossible.
      fits: whether the tensors fit the network; None if this was not checked, because the file cannot be read.
      notes: sentences about choices in reading the file (`Manifest.notes`).
    """

    checks: tuple[Check, ...]
    fits: bool | None = None
    notes: tuple[str, ...] = ()


def verify_file(
    path: str | Path,
    name: str | None = None,
    reference: tuple[np.ndarray, np.ndarray] | None = None,
    state_dict: str | None = None,
) -> Verification:
    """Returns the results of the checks of a weight file.

    Args:
      path: the weight file.
      name: name of the network. If None, the file names it (`find_model`).
      reference: preprocessed images [n, height, width, 3] and their expected logits [n, classes]. If None, logits are
        not compared.
      state_dict: see `load_weights`.
    """
    try:
        opened = open_file(path)
    except UserError as error:
        return Verification((Check("integrity", False, str(error)),))
    intact = Check("integrity", True, opened.checked or NO_CHECKSUM)
    try:
        model = create_model(name or find_model(path, state_dict), num_classes=2)
        tensors, manifest = read_file(path, model, ReadOptions(state_dict))
        if manifest.num_classes is None:
            manifest = manifest.without_foreign()
        model, leaves = port_with_head(tensors, model, manifest)
    except UserError as error:
        return Verification((intact, Check("tensors", False, str(error))), fits=False)
    headless = not any(model.in_head(leaf.removeprefix("params/")) for leaf in leaves)
    classes = "no classifier" if headless else f"{model.num_classes:,} classes"
    fit = Check("tensors", True, f"all {len(tensors)} fit {model.architecture}, {classes}")
    checks = [intact, fit, *check_values(leaves), _check_forward(model, leaves, manifest, headless)]
    if reference is not None:
        checks.append(_check_reference(model, leaves, *reference, headless))
    return Verification(tuple(checks), True, manifest.notes)


def check_values(leaves: Mapping[str, np.ndarray]) -> Iterator[Check]:
    """Yields two checks of leaves of any shape, by name: are all values finite, and are all variances valid?"""
    damaged = damaged_values(leaves)
    bad_values, bad_variances = (
        [f"{damage} in {leaf}" for leaf, damage in damaged.items() if ("variance" in damage) is is_variance]
        for is_variance in (False, True)
    )
    count = sum(values.size for values in leaves.values())
    yield Check("numbers", not bad_values, some_of(bad_values, MOST_NAMED) or f"{count:,} values, all finite")
    variances = [v for leaf, v in leaves.items() if leaf.startswith("batch_stats/") and leaf.endswith("/var")]
    zeros = sum(int((values == 0).sum()) for values in variances)
    inactive = f", {zeros:,} channels are always zero" if zeros else ""
    valid = f"all valid in {len(variances)} batch norms{inactive}"
    yield Check("variances", not bad_variances, some_of(bad_variances, MOST_NAMED) or valid)


def _check_forward(model: Network, leaves: Mapping[str, Any], manifest: Manifest, headless: bool) -> Check:
    """Returns the check that the outputs for an image of noise (with a fixed seed) are finite."""
    side = manifest.preprocessing.size_px
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    images = manifest.preprocessing.apply(jnp.asarray(pixels))
    outputs = _forward(model, leaves, images, model.feature_block if headless else None)
    finite = bool(np.isfinite(outputs).all())
    kind = "features" if headless else "logits"
    result = f"are finite, with a maximum of {outputs.max():.4g}" if finite else "contain NaN or infinity"
    return Check("forward", finite, f"the {kind} for an image of noise of {side} px {result}")


def _check_reference(
    model: Network, leaves: Mapping[str, Any], images: np.ndarray, logits: np.ndarray, headless: bool
) -> Check:
    """Returns the check that the logits for `images` [n, height, width, 3] equal `logits` [n, classes]."""
    if headless:
        return Check("reference", False, "the file has no classifier, so there are no logits to compare")
    outputs = _forward(model, leaves, images, None)
    if outputs.shape != logits.shape:
        return Check(
            "reference", False, f"the logits are {list(outputs.shape)}, but the reference has {list(logits.shape)}"
        )
    difference = float(np.abs(outputs - logits).max() / np.abs(logits).max())
    detail = f"max|a-b| / max|b| = {difference:.1e} over {len(images)} images; at most {TOLERANCE:.0e} is allowed"
    return Check("reference", difference <= TOLERANCE, detail)


def _forward(model: Network, leaves: Mapping[str, Any], images: Any, stop: str | None) -> np.ndarray:
    """Returns the output of block `stop` for preprocessed images [n, height, width, 3], in batches of 16."""
    apply = jax.jit(lambda variables, x: model.apply(variables, x, stop=stop))
    variables = unflatten(leaves)
    outputs = [np.asarray(apply(variables, images[start : start + 16])) for start in range(0, len(images), 16)]
    return np.concatenate(outputs)


def read_reference(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images [n, height, width, 3] and logits [n, classes], float32, from the `.npz` file `path`.

    Raises:
      UserError: there is no such file, or it does not contain 'images' and 'logits' of these shapes.
    """
    try:
        _, arrays = load_npz(Path(path), ("images", "logits"))
        images, logits = (np.asarray(arrays[name], np.float32) for name in ("images", "logits"))
    except Unreadable as error:
        raise UserError(f"the reference {path!r} cannot be read: {error}.") from None
    except DAMAGE:
        raise UserError(f"the reference {path!r} is not an .npz file with 'images' and 'logits'.") from None
    if images.ndim != 4 or images.shape[-1] != 3 or not len(images) or len(images) != len(logits):
        raise UserError(
            f"the reference {path!r} has images {list(images.shape)} and logits {list(logits.shape)}; "
            "they must be [n, height, width, 3] and [n, classes]."
        )
    return images, logits
