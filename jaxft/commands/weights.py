"""`jaxft weights`: what a file holds, whether it is whole and fits its network, and the same in another format."""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxft.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from jaxft.models import Network
    from jaxft.weights.files import Manifest

HELP = "look into a weight file, check it, or write it in another format"
TOLERANCE = 1e-4  # of max|a-b| / max|b|, in float32


class Check(NamedTuple):
    """One thing that was looked at, whether it is well, and what was seen."""

    name: str
    passed: bool
    seen: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "action", choices=["inspect", "verify", "convert"], help="say what is in it, check it, or copy it"
    )
    parser.add_argument(
        "file", metavar="FILE", help="safetensors, PyTorch's, msgpack, or package:NAME for an installed one"
    )
    parser.add_argument("out", metavar="OUT", nargs="?", help="convert: what to write (.safetensors, .pth, .msgpack)")
    parser.add_argument(
        "--model", metavar="NAME", help="the network it is for; by default the file or its name says it"
    )
    parser.add_argument("--tensors", action="store_true", help="inspect: list every tensor")
    parser.add_argument(
        "--reference", metavar="OUT.npz", help="verify: 'images' [n, h, w, 3], preprocessed, and 'logits'"
    )
    parser.add_argument("--force", action="store_true", help="convert: write over OUT where it is there already")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Does what was asked for; returns 1 where a check failed."""
    for option, action in (("out", "convert"), ("tensors", "inspect"), ("reference", "verify"), ("force", "convert")):
        if getattr(args, option) and args.action != action:
            shown = repr(args.out) if option == "out" else f"--{option}"
            raise UserError(f"{shown} is for `jaxft weights {action}`, not for {args.action!r}.")
    if args.action == "inspect":
        return inspect(args.file, args.model, args.tensors)
    if args.action == "verify":
        return verify(args.file, args.model, args.reference)
    if args.out is None:
        raise UserError("there is nothing to convert to; write `jaxft weights convert FILE OUT`.")
    return convert(args.file, args.out, args.model, args.force)


def inspect(file: str, name: str | None, list_tensors: bool) -> int:
    """Prints what is known of the file; a file that does not fit is an error."""
    from jaxft.models import create_model
    from jaxft.weights.files import find_file, find_model, fit, read_file

    path = find_file(file)
    model = create_model(name or find_model(path), num_classes=2)
    tensors, manifest = read_file(path, model)
    model, leaves = fit(tensors, model, manifest)
    preprocessing = manifest.preprocessing
    within = f", the centre of {manifest.resize_px}" if manifest.resize_px else ""
    print(f"file           {path}, {path.stat().st_size:,} bytes")
    print(f"format         {manifest.format}, {'flax' if manifest.format == 'msgpack' else manifest.layout} layout")
    print(f"sha256         {manifest.sha256}")
    print(f"integrity      {_checked(manifest)}")
    print(f"model          {model.architecture}: every tensor fits")
    print(f"tensors        {len(tensors)}, {sum(t.size for t in tensors.values()):,} values, {_dtypes(tensors)}")
    print(f"values         {'; variances: '.join(check.seen for check in _check_values(leaves))}")
    print(f"origin         {manifest.origin or 'unknown'}")
    print(f"classes        {_classes(manifest.class_names)}")
    print(
        f"preprocessing  {preprocessing.size_px} px{within}, {preprocessing.channel_order}, "
        f"0..{preprocessing.value_range:g}, mean {preprocessing.mean}, std {preprocessing.std}"
        + (" (assumed: the file says nothing of it)" if manifest.assumed else "")
    )
    if list_tensors:
        for tensor, values in tensors.items():
            print(f"  {tensor:<40} {values.dtype!s:<8} {list(values.shape)}")
    return 0


def verify(file: str, name: str | None, reference: str | None) -> int:
    """Prints a line for each check of the file and returns 0 where all passed, else 1."""
    from jaxft.models import create_model
    from jaxft.weights.files import find_file

    path = find_file(file)
    if name is not None:
        create_model(name, num_classes=2)
    expected = _read_reference(reference) if reference else None
    failed = False
    for check in checks(path, name, expected):
        print(f"{'ok' if check.passed else 'FAILED':<8}{check.name:<11}{check.seen}")
        failed |= not check.passed
    return int(failed)


def checks(path: Path, name: str | None, reference: "tuple[np.ndarray, np.ndarray] | None") -> Iterator[Check]:
    """Yields the checks of a weight file, as far as one can go: whole, fitting, finite, running, as the reference."""
    from jaxft.models import create_model
    from jaxft.weights.files import find_model, fit, read_file

    try:
        model = create_model(name or find_model(path), num_classes=2)
        tensors, manifest = read_file(path, model)
    except UserError as error:
        yield Check("integrity", False, str(error))
        return
    yield Check("integrity", True, _checked(manifest))
    try:
        model, leaves = fit(tensors, model, manifest)
    except UserError as error:
        yield Check("tensors", False, str(error))
        return
    headless = not any(model.in_head(leaf.removeprefix("params/")) for leaf in leaves)
    classes = "no classifier" if headless else f"{model.num_classes:,} classes"
    yield Check("tensors", True, f"all {len(tensors)} fit {model.architecture}, {classes}")
    yield from _check_values(leaves)
    yield _check_forward(model, leaves, manifest, headless)
    if reference is not None:
        yield _check_reference(model, leaves, *reference, headless)


def _check_values(leaves: "Mapping[str, np.ndarray]") -> Iterator[Check]:
    """Yields whether all numbers are finite, and whether a network can compute with all variances."""
    from jaxft.weights.files import damaged_values

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


def _check_forward(model: "Network", leaves: Mapping[str, Any], manifest: "Manifest", headless: bool) -> Check:
    """Returns whether noise, drawn the same every time, gives finite numbers."""
    import jax.numpy as jnp
    import numpy as np

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
    model: "Network", leaves: Mapping[str, Any], images: "np.ndarray", logits: "np.ndarray", headless: bool
) -> Check:
    import numpy as np

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


def _forward(model: "Network", leaves: Mapping[str, Any], images: Any, stop: str | None) -> "np.ndarray":
    """Returns the output of unit `stop` for images, preprocessed; 16 at a time."""
    import jax
    import numpy as np

    from jaxft.core.paths import unflatten

    apply = jax.jit(lambda variables, x: model.apply(variables, x, stop=stop))
    variables = unflatten(leaves)
    parts = [np.asarray(apply(variables, images[start : start + 16])) for start in range(0, len(images), 16)]
    return np.concatenate(parts)


def _read_reference(path: str) -> "tuple[np.ndarray, np.ndarray]":
    import zipfile

    import numpy as np

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


def convert(file: str, out: str, name: str | None, force: bool) -> int:
    """Writes the file's weights to `out`, and prints what was written."""
    from jaxft.models import create_model
    from jaxft.weights.files import check_place, convert_weights, find_file, read_file

    path = find_file(file)
    check_place(out)
    if Path(out).exists() and not force:
        raise UserError(f"{out!r} is there already; --force writes over it.")
    model = create_model(convert_weights(path, out, name).model, num_classes=2)
    tensors, written = read_file(out, model)
    print(
        f"wrote {out}: {written.format}, {Path(out).stat().st_size:,} bytes, {len(tensors)} tensors, "
        f"{_dtypes(tensors)}, for {model.architecture}"
    )
    return 0


def _checked(manifest: "Manifest") -> str:
    return manifest.checked or "nothing is known of this file to compare its bits with"


def _dtypes(tensors: "Mapping[str, np.ndarray]") -> str:
    return ", ".join(f"{dtype} ({count})" for dtype, count in Counter(str(t.dtype) for t in tensors.values()).items())


def _classes(names: tuple[str, ...]) -> str:
    if not names:
        return "unknown"
    return f"{len(names)}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
