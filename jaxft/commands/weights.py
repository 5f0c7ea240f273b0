"""`jaxft weights`: describes a weight file, checks it, or converts it to another format."""

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

HELP = "describe a weight file, check it, or convert it to another format"
MAX_NAMED = 8  # classes in a line
# The action that each option belongs to.
ACTIONS = {"out": "convert", "tensors": "inspect", "reference": "verify", "force": "convert", "naming": "convert"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "action",
        choices=["inspect", "verify", "convert"],
        help="'inspect' prints the contents; 'verify' checks digests, tensors and a forward pass; 'convert' writes the "
        "weights to OUT",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help=f"file of weights ({', '.join(FORMATS)}), or package:NAME for weights in an installed Python package",
    )
    parser.add_argument(
        "out", metavar="OUT", nargs="?", help=f"convert: file to write ({', '.join(writable_suffixes())})"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="architecture of the weights, as in `jaxft models` (default: from the file)"
    )
    parser.add_argument("--tensors", action="store_true", help="inspect: list every tensor")
    parser.add_argument(
        "--reference",
        metavar="OUT.npz",
        help="verify: compare the network with the arrays 'images' [n, h, w, 3] (preprocessed) and 'logits' [n, "
        "classes] in this file",
    )
    parser.add_argument("--force", action="store_true", help="convert: overwrite OUT if it exists")
    parser.add_argument(
        "--naming",
        metavar="NAME",
        default="",
        help="convert: naming of the tensors in OUT, such as timm (default: the naming of FILE)",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs the action. Returns 1 if a check fails.

    Raises:
      UserError: an option belongs to another action, OUT is missing, or the file cannot be used.
    """
    for option, action in ACTIONS.items():
        if getattr(args, option) and args.action != action:
            shown = repr(args.out) if option == "out" else f"--{option}"
            raise UserError(f"{shown} belongs to `jaxft weights {action}`, not to `jaxft weights {args.action}`.")
    if args.action == "inspect":
        return inspect(args.file, args.model, args.tensors)
    if args.action == "verify":
        return verify(args.file, args.model, args.reference)
    if args.out is None:
        raise UserError("the output file is missing; write `jaxft weights convert FILE OUT`.")
    return convert(args)


def inspect(file: str, name: str | None, list_tensors: bool) -> int:
    """Prints the contents of a file.

    Raises:
      UserError: the file cannot be read, or its tensors do not fit the network.
    """
    from jaxft.models import create_model
    from jaxft.weights import find_file, find_model, port_with_head, read_file
    from jaxft.weights.verification import check_values, integrity

    path = find_file(file)
    model = create_model(name or find_model(path), num_classes=2)
    tensors, manifest = read_file(path, model)
    model, leaves = port_with_head(tensors, model, manifest)
    preprocessing = manifest.preprocessing
    resized = f" (center crop of images of {manifest.resize_px} px)" if manifest.resize_px else ""
    print(f"file           {path}, {path.stat().st_size:,} bytes")
    print(f"format         {manifest.format}, {_layout(manifest)}")
    print(f"sha256         {manifest.sha256}")
    print(f"integrity      {integrity(manifest)}")
    print(f"model          {model.architecture}: every tensor fits")
    print(f"tensors        {len(tensors)}, {sum(t.size for t in tensors.values()):,} values, {_dtypes(tensors)}")
    print(f"values         {'; variances: '.join(check.detail for check in check_values(leaves))}")
    print(f"origin         {manifest.origin or 'unknown'}")
    print(f"classes        {_classes(manifest.class_names)}")
    print(
        f"preprocessing  {preprocessing.size_px} px{resized}, {preprocessing.channel_order}, "
        f"0..{preprocessing.value_range:g}, mean {preprocessing.mean}, std {preprocessing.std}"
        + (" (assumed, because the file does not record it)" if manifest.assumed else "")
    )
    if list_tensors:
        rows = [(tensor, str(values.dtype), str(list(values.shape))) for tensor, values in tensors.items()]
        print()
        print_table(["tensor", "type", "shape"], rows, (), ruled=False)
    return 0


def verify(file: str, name: str | None, reference: str | None) -> int:
    """Prints one line per check of the file. Returns 0 if all checks pass, otherwise 1."""
    from jaxft.models import create_model
    from jaxft.weights import find_file, verify_file
    from jaxft.weights.verification import read_reference

    path = find_file(file)
    if name is not None:
        create_model(name, num_classes=2)
    expected = read_reference(reference) if reference else None
    failed = False
    for check in verify_file(path, name, expected):
        print(f"{'ok' if check.passed else 'FAILED':<8}{check.name:<11}{check.detail}")
        failed |= not check.passed
    return int(failed)


def convert(args: argparse.Namespace) -> int:
    """Converts the file, and prints the contents of the new file.

    Raises:
      UserError: the output file exists and `--force` is not set, or the file cannot be used.
    """
    from jaxft.models import create_model
    from jaxft.weights import check_output_path, convert_weights, find_file, read_file

    path = find_file(args.file)
    check_output_path(args.out)
    if Path(args.out).exists() and not args.force:
        raise UserError(f"{args.out!r} exists; add --force to overwrite it.")
    model = create_model(convert_weights(path, args.out, args.model, args.naming).model, num_classes=2)
    tensors, written = read_file(args.out, model)
    print(
        f"wrote {args.out}: {written.format}, {Path(args.out).stat().st_size:,} bytes, {len(tensors)} tensors, "
        f"{_dtypes(tensors)}, for {model.architecture}"
    )
    return 0


def _layout(manifest: "Manifest") -> str:
    """Returns the layout and the naming of the tensors in a file. Formats with Flax names ignore the manifest."""
    if FORMATS[manifest.format.partition(" ")[0]].value.uses_leaf_names:
        return "flax layout"
    return f"{manifest.layout} layout, names of {manifest.naming}"


def _dtypes(tensors: "Mapping[str, np.ndarray]") -> str:
    """Returns the number of tensors of each dtype, as text."""
    return ", ".join(f"{dtype} ({count})" for dtype, count in Counter(str(t.dtype) for t in tensors.values()).items())


def _classes(names: tuple[str, ...]) -> str:
    """Returns the number of classes and the first names, as text."""
    if not names:
        return "unknown"
    return f"{len(names)}: {some_of(names, MAX_NAMED)}"
