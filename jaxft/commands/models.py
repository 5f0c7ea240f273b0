"""`jaxft models`: the networks that there are, and what each is made of."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxft.core.tables import print_table

if TYPE_CHECKING:
    from jaxft.models.description import Description

HELP = "list the networks, or show what they are made of"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "name",
        nargs="*",
        metavar="NAME",
        help="networks, to see their units; families take other depths than those listed",
    )
    parser.add_argument("--detail", action="store_true", help="parameters, MACs, taps and weights of every network")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the families, a table of all networks, or the units of those that are named."""
    from jaxft.models import list_families, list_models
    from jaxft.models.description import describe_model

    if args.name:
        for i, description in enumerate([describe_model(name) for name in args.name]):
            print("\n" * (i > 0), end="")
            print_blocks(description)
    elif args.detail:
        print_networks([describe_model(name) for name in list_models()])
    else:
        for family in list_families():
            print(f"{', '.join(family.names)}\n    {family.summary}")
    return 0


def print_networks(descriptions: Sequence["Description"]) -> None:
    """Prints a row a network."""
    rows = [
        [
            d.model.architecture,
            f"{d.model.preprocessing.size_px}",
            f"{d.num_params:,}",
            f"{d.num_macs / 1e6:,.1f}",
            d.dataset,
            " ".join(tap.name for tap in d.model.taps),
            ", ".join(dict.fromkeys(file.dataset for file in d.published)) or "–",
        ]
        for d in descriptions
    ]
    header = ["network", "size px", "parameters", "million MACs", "head for", "taps", "published weights for"]
    print_table(header, rows, range(1, 4), ruled=False)
    print(f"\n{_NOTE}")


def print_blocks(description: "Description") -> None:
    """Prints what is known of a network as a whole, and a row a unit."""
    model = description.model
    taps = {tap.block: tap for tap in model.taps}
    print(
        f"{model.architecture}: {description.num_params:,} parameters, {description.num_macs:,} MACs an image of "
        f"{model.preprocessing.size_px} px; head for the {model.num_classes:,} classes of {description.dataset}\n"
        f"published weights: {', '.join(file.file for file in description.published) or 'none known'}\n"
    )
    rows = []
    for block in description.blocks:
        tap = taps.get(block.name)
        field = "" if tap is None or tap.receptive_field_px is None else str(tap.receptive_field_px)
        tap_cells = [f"{tap.stride_px}", field, tap.name] if tap else ["", "", ""]
        output = " x ".join(map(str, block.output))
        rows.append([block.name, output, f"{block.num_params:,}", f"{block.num_macs:,}", *tap_cells])
    print_table(["unit", "output", "parameters", "MACs", "stride", "field", "tap"], rows, range(1, 6), ruled=False)
    print(f"\n{_NOTE} stride, field: step and receptive field in px.")


_NOTE = "MACs: multiply-accumulates of convolutions and dense layers."
