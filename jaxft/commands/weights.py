"""`jaxft weights inspect`: what a weight file holds, and whether it fits a network."""

import argparse
from pathlib import Path

HELP = "look into a weight file and check it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("action", choices=["inspect"], help="what to do")
    parser.add_argument("file", metavar="FILE", help="a safetensors file")
    parser.add_argument("--model", metavar="NAME", help="the network it is for; by default the file's name up to a dot")
    parser.add_argument("--tensors", action="store_true", help="list every tensor")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints what is known of the file; a file that does not fit is an error."""
    from jaxft.models import create_model
    from jaxft.weights import load, read_file

    name = args.model or Path(args.file).name.partition(".")[0]
    try:
        model = create_model(name, num_classes=2)
    except ValueError:
        if args.model:
            raise
        # A trial's weights are named by digest; the file itself says what it is for.
        model = create_model(recorded_model(args.file), num_classes=2)
    tensors, manifest = read_file(args.file, model)
    load(args.file, model, head="new")
    preprocessing = manifest.preprocessing
    print(f"file           {args.file}, {Path(args.file).stat().st_size:,} bytes")
    print(f"sha256         {manifest.sha256}")
    print(f"model          {model.architecture}: every tensor fits")
    print(f"tensors        {len(tensors)}, {sum(t.size for t in tensors.values()):,} values")
    print(f"origin         {manifest.origin or 'unknown'}")
    print(f"classes        {_classes(manifest.class_names)}")
    print(
        f"preprocessing  {preprocessing.size_px} px, {preprocessing.channel_order}, "
        f"0..{preprocessing.value_range:g}, mean {preprocessing.mean}, std {preprocessing.std}"
        + (" (assumed: the file says nothing of it)" if manifest.assumed else "")
    )
    if args.tensors:
        for tensor, values in tensors.items():
            print(f"  {tensor:<40} {values.dtype!s:<8} {list(values.shape)}")
    return 0


def recorded_model(path: str) -> str:
    """Returns the name of the network that a file written by jaxft is for."""
    from safetensors import SafetensorError, safe_open

    from jaxft.errors import UserError
    from jaxft.weights import METADATA_KEY, read_record

    if not Path(path).is_file():
        raise UserError(f"there is no weight file {path!r}.")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except SafetensorError as error:
        raise UserError(f"the weight file {path!r} is truncated or no safetensors file ({error}).") from None
    if text is None:
        raise UserError(f"{path!r} does not say which network it is for; name it with --model.")
    return read_record(path, text)["model"]


def _classes(names: tuple[str, ...]) -> str:
    if not names:
        return "unknown"
    return f"{len(names)}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
