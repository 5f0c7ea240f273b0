"""`jaxft weights`: what a file holds, whether it is whole and fits its network, and the same in another format."""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.core.errors import UserError
from jaxft.core.tables import print_table
from jaxft.core.text import some_of
from jaxft.weights.formats import FORMATS, writable_suffixes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from jaxft.weights import Manifest

HELP = "look into a weight file, check it, or write it in another format"
MOST_NAMED = 8  # classes in a line
ACTIONS = {"out": "convert", "tensors": "inspect", "reference": "verify", "force": "convert", "naming": "convert"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "action", choices=["inspect", "verify", "convert"], help="say what is in it, check it, or copy it"
    )
    parser.add_argument(
        "file", metavar="FILE", help=f"a weight file ({', '.join(FORMATS)}), or package:NAME for an installed one"
    )
    parser.add_argument(
        "out", metavar="OUT", nargs="?", help=f"convert: the file to write ({', '.join(writable_suffixes())})"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="the network it is for; by default the file or its name says it"
    )
    parser.add_argument("--tensors", action="store_true", help="inspect: list every tensor")
    parser.add_argument(
        "--reference", metavar="OUT.npz", help="verify: 'images' [n, h, w, 3], preprocessed, and 'logits'"
    )
    parser.add_argument("--force", action="store_true", help="convert: write over OUT where it is there already")
    parser.add_argument(
        "--naming",
        metavar="NAME",
        default="",
        help="convert: how OUT calls its tensors, such as timm; else as FILE does",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Does what was asked for; returns 1 where a check failed."""
    for option, action in ACTIONS.items():
        if getattr(args, option) and args.action != action:
            shown = repr(args.out) if option == "out" else f"--{option}"
            raise UserError(f"{shown} is for `jaxft weights {action}`, not for {args.action!r}.")
    if args.action == "inspect":
        return inspect(args.file, args.model, args.tensors)
    if args.action == "verify":
        return verify(args.file, args.model, args.reference)
    if args.out is None:
        raise UserError("there is nothing to convert to; write `jaxft weights convert FILE OUT`.")
    return convert(args)


def inspect(file: str, name: str | None, list_tensors: bool) -> int:
    """Prints what is known of the file; a file that does not fit is an error."""
    from jaxft.models import create_model
    from jaxft.weights import find_file, find_model, fit, read_file
    from jaxft.weights.verification import check_values, checked

    path = find_file(file)
    model = create_model(name or find_model(path), num_classes=2)
    tensors, manifest = read_file(path, model)
    model, leaves = fit(tensors, model, manifest)
    preprocessing = manifest.preprocessing
    within = f", the center of {manifest.resize_px}" if manifest.resize_px else ""
    print(f"file           {path}, {path.stat().st_size:,} bytes")
    print(f"format         {manifest.format}, {_layout(manifest)}")
    print(f"sha256         {manifest.sha256}")
    print(f"integrity      {checked(manifest)}")
    print(f"model          {model.architecture}: every tensor fits")
    print(f"tensors        {len(tensors)}, {sum(t.size for t in tensors.values()):,} values, {_dtypes(tensors)}")
    print(f"values         {'; variances: '.join(check.seen for check in check_values(leaves))}")
    print(f"origin         {manifest.origin or 'unknown'}")
    print(f"classes        {_classes(manifest.class_names)}")
    print(
        f"preprocessing  {preprocessing.size_px} px{within}, {preprocessing.channel_order}, "
        f"0..{preprocessing.value_range:g}, mean {preprocessing.mean}, std {preprocessing.std}"
        + (" (assumed: the file says nothing of it)" if manifest.assumed else "")
    )
    if list_tensors:
        rows = [(tensor, str(values.dtype), str(list(values.shape))) for tensor, values in tensors.items()]
        print()
        print_table(["tensor", "type", "shape"], rows, (), ruled=False)
    return 0


def verify(file: str, name: str | None, reference: str | None) -> int:
    """Prints a line for each check of the file and returns 0 where all passed, else 1."""
    from jaxft.models import create_model
    from jaxft.weights import find_file, verify_file
    from jaxft.weights.verification import read_reference

    path = find_file(file)
    if name is not None:
        create_model(name, num_classes=2)
    expected = read_reference(reference) if reference else None
    failed = False
    for check in verify_file(path, name, expected):
        print(f"{'ok' if check.passed else 'FAILED':<8}{check.name:<11}{check.seen}")
        failed |= not check.passed
    return int(failed)


def convert(args: argparse.Namespace) -> int:
    """Writes the file's weights to another, and prints what was written."""
    from jaxft.models import create_model
    from jaxft.weights import check_output_path, convert_weights, find_file, read_file

    path = find_file(args.file)
    check_output_path(args.out)
    if Path(args.out).exists() and not args.force:
        raise UserError(f"{args.out!r} is there already; --force writes over it.")
    model = create_model(convert_weights(path, args.out, args.model, args.naming).model, num_classes=2)
    tensors, written = read_file(args.out, model)
    print(
        f"wrote {args.out}: {written.format}, {Path(args.out).stat().st_size:,} bytes, {len(tensors)} tensors, "
        f"{_dtypes(tensors)}, for {model.architecture}"
    )
    return 0


def _layout(manifest: "Manifest") -> str:
    """Returns how tensors are laid out and called in a file; those of msgpack as in Flax, whatever an export has."""
    if FORMATS[manifest.format.partition(" ")[0]].value.has_own_names:
        return "flax layout"
    return f"{manifest.layout} layout, names of {manifest.naming}"


def _dtypes(tensors: "Mapping[str, np.ndarray]") -> str:
    return ", ".join(f"{dtype} ({count})" for dtype, count in Counter(str(t.dtype) for t in tensors.values()).items())


def _classes(names: tuple[str, ...]) -> str:
    if not names:
        return "unknown"
    return f"{len(names)}: {some_of(names, MOST_NAMED)}"
