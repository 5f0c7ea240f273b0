"""`jaxft weights`: describes, checks and converts weight files, and downloads published weights."""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.commands.arguments import add_read_arguments, read_options
from jaxft.commands.getting import run_get
from jaxft.core.errors import UserError
from jaxft.core.events import Warned, print_warnings
from jaxft.core.files import check_new
from jaxft.core.printing import print_lines
from jaxft.core.tables import print_table
from jaxft.core.text import some_of
from jaxft.weights.formats import FORMATS, writable_suffixes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from jaxft.weights import Manifest
    from jaxft.weights.formats import Contents

HELP = "describe a weight file, check it, convert it to another format, or download published weights"
DOES_NOT_FIT = 3  # exit code of `verify` for an intact file whose tensors fit no network
MAX_NAMED = 8  # classes in a line
# The action that each option belongs to.
ACTIONS = {"out": "convert", "tensors": "inspect", "reference": "verify", "force": "convert", "naming": "convert"}
ACTIONS |= dict.fromkeys(("labels", "mean", "std", "size_px", "range", "channel_order"), "convert")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "action",
        choices=["inspect", "verify", "convert", "get"],
        help="'inspect' prints the contents; 'verify' checks digests, tensors and a forward pass, with the exit code 1 "
        f"for a damaged file and {DOES_NOT_FIT} for an intact file that fits no network; 'convert' writes the weights "
        "to OUT; 'get' downloads published weights by name, such as resnetsmall14.cifar100",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help=f"file of weights ({', '.join(FORMATS)}), or package:NAME for weights in an installed Python package; "
        "get: name of published weights",
    )
    parser.add_argument(
        "out", metavar="OUT", nargs="?", help=f"convert: file to write ({', '.join(writable_suffixes())})"
    )
    parser.add_argument("more", metavar="NAME", nargs="*", help="get: more names of published weights")
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
    parser.add_argument("--force", action="store_true", help="convert: replace OUT if it exists")
    parser.add_argument(
        "--naming",
        metavar="NAME",
        default="",
        help="convert: naming of the tensors in OUT, such as timm (default: the naming of FILE)",
    )
    add_read_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs the action. Returns 1 if a check of the file fails, and `DOES_NOT_FIT` if only its network is unknown.

    Raises:
      UserError: an option belongs to another action, OUT is missing, or the file cannot be used.
    """
    if args.action == "get":
        return run_get("weights", [name for name in (args.file, args.out, *args.more) if name is not None])
    if args.more:
        raise UserError(f"{args.more[0]!r} is one argument too many for `jaxft weights {args.action}`.")
    for option, action in ACTIONS.items():
        if getattr(args, option) and args.action != action:
            shown = repr(args.out) if option == "out" else f"--{option.replace('_', '-')}"
            raise UserError(f"{shown} belongs to `jaxft weights {action}`, not to `jaxft weights {args.action}`.")
    if args.action == "inspect":
        return inspect(args.file, args.model, args.tensors, args.state_dict)
    if args.action == "verify":
        return verify(args.file, args.model, args.reference, args.state_dict)
    if args.out is None:
        raise UserError("the output file is missing; write `jaxft weights convert FILE OUT`.")
    return convert(args)


def inspect(file: str, name: str | None, list_tensors: bool, state_dict: str | None) -> int:
    """Prints the contents of a file, also if its tensors fit no network.

    Args:
      file: a weight file, or `package:NAME`.
      name: name of the network. If None, the file names it.
      list_tensors: whether to print a table of all tensors.
      state_dict: see `jaxft.load_weights`.

    Raises:
      UserError: the file cannot be read, or there is no network `name`.
    """
    from jaxft.models import create_model
    from jaxft.weights import open_file
    from jaxft.weights.files import num_bytes_of
    from jaxft.weights.verification import NO_CHECKSUM

    if name is not None:
        create_model(name, num_classes=2)
    opened = open_file(file)
    print_lines(f"file           {opened.path}, {num_bytes_of(opened.path):,} bytes")
    print_lines(f"sha256         {opened.sha256}")
    print_lines(f"integrity      {opened.checked or NO_CHECKSUM}")
    try:
        tensors = _inspect_network(opened.path, name, state_dict)
    except UserError as error:
        tensors = _all_tensors(opened.contents)
        print_lines(f"format         {opened.contents.variant or opened.format.name}")
        print_lines(f"model          none: {error}")
        print_lines(f"tensors        {_count(tensors)}")
    if list_tensors:
        rows = [(tensor, str(values.dtype), str(list(values.shape))) for tensor, values in tensors.items()]
        print_lines("")
        print_table(["tensor", "type", "shape"], rows, (), ruled=False)
    return 0


def _inspect_network(path: Path, name: str | None, state_dict: str | None) -> "Mapping[str, np.ndarray]":
    """Prints the network of a file and its metadata. Returns the tensors of the network by their names in the naming.

    Raises:
      UserError: the network is unknown, or the tensors do not fit it.
    """
    from jaxft.models import create_model
    from jaxft.weights import ReadOptions, find_model, port_with_head, read_file
    from jaxft.weights.metadata import preprocessing_text
    from jaxft.weights.verification import check_values

    model = create_model(name or find_model(path, state_dict), num_classes=2)
    tensors, manifest = read_file(path, model, ReadOptions(state_dict))
    if manifest.num_classes is None:
        manifest = manifest.without_foreign()
    model, leaves = port_with_head(tensors, model, manifest)
    resized = f" (center crop of images of {manifest.resize_px} px)" if manifest.resize_px else ""
    print_lines(f"format         {manifest.format}, {_layout(manifest)}")
    print_lines(f"model          {model.architecture}: every tensor fits")
    for note in manifest.notes:
        print_lines(f"note           {note}")
    print_lines(f"tensors        {_count(tensors)}")
    print_lines(f"values         {'; variances: '.join(check.detail for check in check_values(leaves))}")
    print_lines(f"origin         {manifest.origin or 'unknown'}")
    print_lines(f"classes        {_classes(manifest.class_names)}")
    assumed = " (assumed, because the file does not record it)" if manifest.assumed else ""
    print_lines(f"preprocessing  {preprocessing_text(manifest.preprocessing)}{resized}{assumed}")
    return tensors


def _all_tensors(contents: "Contents") -> "dict[str, np.ndarray]":
    """Returns the tensors of all state dicts of a file; if there are several, names begin with the state dict."""
    if not contents.others:
        return contents.tensors
    state_dicts = [contents, *(read() for read in contents.others.values())]
    return {
        f"{read.state_dict}: {name}" if read.state_dict else name: tensor
        for read in state_dicts
        for name, tensor in read.tensors.items()
    }


def verify(file: str, name: str | None, reference: str | None, state_dict: str | None) -> int:
    """Prints one line per check of the file. Returns 0 if all checks pass; see `run`.

    Args:
      file: a weight file, or `package:NAME`.
      name: name of the network. If None, the file names it.
      reference: an `.npz` file with images and logits. If None, logits are not compared.
      state_dict: see `jaxft.load_weights`.
    """
    from jaxft.models import create_model
    from jaxft.weights import find_file, verify_file
    from jaxft.weights.verification import read_reference

    path = find_file(file)
    if name is not None:
        create_model(name, num_classes=2)
    verification = verify_file(path, name, read_reference(reference) if reference else None, state_dict)
    for check in verification.checks:
        print_lines(f"{'ok' if check.passed else 'FAILED':<8}{check.name:<11}{check.detail}")
    _warn(verification.notes)
    if verification.fits is False:
        return DOES_NOT_FIT
    return int(not all(check.passed for check in verification.checks))


def convert(args: argparse.Namespace) -> int:
    """Converts the file, and prints the contents of the new file.

    Raises:
      UserError: the output file exists and `--force` is not set, or the file cannot be used.
    """
    from jaxft.models import create_model
    from jaxft.weights import check_output_path, convert_weights, find_file, read_file
    from jaxft.weights.files import num_bytes_of

    path = find_file(args.file)
    check_output_path(args.out)
    check_new(Path(args.out), args.force)
    manifest = convert_weights(path, args.out, args.model, args.naming, read_options(args))
    _warn(manifest.notes)
    model = create_model(manifest.model, num_classes=2)
    tensors, written = read_file(args.out, model)
    print_lines(
        f"wrote {args.out}: {written.format}, {num_bytes_of(Path(args.out)):,} bytes, {len(tensors)} tensors, "
        f"{_dtypes(tensors)}, for {model.architecture}"
    )
    return 0


def _warn(notes: tuple[str, ...]) -> None:
    """Prints the notes about a file to standard error."""
    for note in notes:
        print_warnings(Warned(note))


def _count(tensors: "Mapping[str, np.ndarray]") -> str:
    """Returns the number of tensors and of their values, and their dtypes, as text."""
    return f"{len(tensors)}, {sum(t.size for t in tensors.values()):,} values, {_dtypes(tensors)}"


def _layout(manifest: "Manifest") -> str:
    """Returns the layout and the naming of the tensors in a file. Formats with Flax names ignore the manifest."""
    naming = FORMATS[manifest.format.partition(" ")[0]].value.naming
    if naming == "flax":
        return "flax layout"
    return f"{manifest.layout} layout, names of {naming or manifest.naming}"


def _dtypes(tensors: "Mapping[str, np.ndarray]") -> str:
    """Returns the number of tensors of each dtype, as text."""
    return ", ".join(f"{dtype} ({count})" for dtype, count in Counter(str(t.dtype) for t in tensors.values()).items())


def _classes(names: tuple[str, ...]) -> str:
    """Returns the number of classes and the first names, as text."""
    if not names:
        return "unknown"
    return f"{len(names)}: {some_of(names, MAX_NAMED)}"
