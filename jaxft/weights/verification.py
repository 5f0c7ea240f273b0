"""Checks of a weight file: whole, fitting its network, finite, running, and computing as a reference."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.core.errors import UserError
from jaxft.core.paths import unflatten
from jaxft.models import Network, create_model
from jaxft.weights.damage import damaged_values
from jaxft.weights.loading import read_file
from jaxft.weights.manifest import Manifest
from jaxft.weights.porting import fit
from jaxft.weights.published import find_model

TOLERANCE = 1e-4  # of max|a-b| / max|b|, in float32


class Check(NamedTuple):
    """One thing that was looked at, whether it is well, and what was seen."""

    name: str
    passed: bool
    seen: str


def verify_file(path: Path, name: str | None, reference: tuple[np.ndarray, np.ndarray] | None) -> Iterator[Check]:
    """Yields the checks of a weight file, as far as one can go: whole, fitting, finite, running, as the reference."""
    try:
        model = create_model(name or find_model(path), num_classes=2)
        tensors, manifest = read_file(path, model)
    except UserError as error:
        yield Check("integrity", False, str(error))
        return
    yield Check("integrity", True, checked(manifest))
    try:
        model, leaves = fit(tensors, model, manifest)
    except UserError as error:
        yield Check("tensors", False, str(error))
        return
    headless = not any(model.in_head(leaf.removeprefix("params/")) for leaf in leaves)
    classes = "no classifier" if headless else f"{model.num_classes:,} classes"
    yield Check("tensors", True, f"all {len(tensors)} fit {model.architecture}, {classes}")
    yield from check_values(leaves)
    yield _check_forward(model, leaves, manifest, headless)
    if reference is not None:
        yield _check_reference(model, leaves, *reference, headless)


def check_values(leaves: Mapping[str, np.ndarray]) -> Iterator[Check]:
    """Yields whether all numbers are finite, and whether a network can compute with all variances."""
    damaged = damaged_values(leaves)
    of_numbers, of_variances = (
        ", ".join(f"{what} in {leaf}" for leaf, what in damaged.items() if ("variance" in what) is is_variance)
        for is_variance in (False, True)
    )
    count = sum(values.size for values in leaves.values())
    yield Check("numbers", not of_numbers, of_numbers or f"{count:,} values, all finite")
    variances = [v for leaf, v in leaves.items() if leaf.startswith("batch_stats/") and leaf.endswith("/var")]
    zeros = sum(int((values == 0).sum()) for values in variances)
    off = f", {zeros:,} channels are always off" if zeros else ""
    yield Check("variances", not of_variances, of_variances or f"all well in {len(variances)} batch norms{off}")


def _check_forward(model: Network, leaves: Mapping[str, Any], manifest: Manifest, headless: bool) -> Check:
    """Returns whether noise, drawn the same every time, gives finite numbers."""
    side = manifest.preprocessing.size_px
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    images = manifest.preprocessing.apply(jnp.asarray(pixels))
    outputs = _forward(model, leaves, images, model.feature_block if headless else None)
    finite = bool(np.isfinite(outputs).all())
    what = "features before the classifier" if headless else "logits"
    largest = f", the largest {outputs.max():.4g}" if finite else ""
    seen = f"a picture of noise, {side} px, gives {'' if finite else 'NaN or infinity among the '}{what}{largest}"
    return Check("forward", finite, seen)


def _check_reference(
    model: Network, leaves: Mapping[str, Any], images: np.ndarray, logits: np.ndarray, headless: bool
) -> Check:

    if headless:
        return Check("reference", False, "there is no classifier, so there are no logits to compare")
    ours = _forward(model, leaves, images, None)
    if ours.shape != logits.shape:
        return Check(
            "reference", False, f"the logits are {list(ours.shape)}, those of the reference {list(logits.shape)}"
        )
    difference = float(np.abs(ours - logits).max() / np.abs(logits).max())
    seen = f"max|a-b| / max|b| = {difference:.1e} over {len(images)} images; allowed {TOLERANCE:.0e}"
    return Check("reference", difference <= TOLERANCE, seen)


def _forward(model: Network, leaves: Mapping[str, Any], images: Any, stop: str | None) -> np.ndarray:
    """Returns the output of unit `stop` for images, preprocessed; 16 at a time."""
    apply = jax.jit(lambda variables, x: model.apply(variables, x, stop=stop))
    variables = unflatten(leaves)
    outputs = [np.asarray(apply(variables, images[start : start + 16])) for start in range(0, len(images), 16)]
    return np.concatenate(outputs)


def read_reference(path: str) -> tuple[np.ndarray, np.ndarray]:

    try:
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            images, logits = (np.asarray(file[name], np.float32) for name in ("images", "logits"))
    except FileNotFoundError:
        raise UserError(f"there is no reference {path!r}.") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile):
        raise UserError(f"the reference {path!r} is no .npz file with 'images' and 'logits'.") from None
    if images.ndim != 4 or images.shape[-1] != 3 or not len(images) or len(images) != len(logits):
        raise UserError(
            f"the reference {path!r} has images {list(images.shape)} and logits {list(logits.shape)}; "
            "they must be [n, height, width, 3] and [n, classes]."
        )
    return images, logits


def checked(manifest: Manifest) -> str:
    """Returns what the bits of a file were compared with, as a phrase."""
    return manifest.checked or "nothing is known of this file to compare its bits with"
