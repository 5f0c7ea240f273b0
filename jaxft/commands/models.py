"""`jaxft models`: lists the networks, and describes their blocks."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxft.core.printing import print_lines
from jaxft.core.tables import print_table

if TYPE_CHECKING:
    from jaxft.models.description import Description

HELP = "list the networks, or show the blocks, parameters and multiply-accumulates of some of them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "name",
        nargs="*",
        metavar="NAME",
        help="networks to describe; a name can have another depth than the listed ones, such as cifar_resnet44",
    )
    parser.add_argument(
        "--detail",
        action="store_true",
        help="print a table of all networks: parameters, multiply-accumulates, taps, published weights",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the families, a table of all networks, or the blocks of the named networks."""
    from jaxft.models import list_families, list_models
    from jaxft.models.description import describe_model

    if args.name:
        for i, description in enumerate([describe_model(name) for name in args.name]):
            if i:
                print_lines("")
            print_blocks(description)
    elif args.detail:
        print_networks([describe_model(name) for name in list_models()])
    else:
        for family in list_families():
            print_lines(", ".join(family.names), f"    {family.summary}")
    return 0


def print_networks(descriptions: Sequence["Description"]) -> None:
    """Prints a table with one row per network."""
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
    header = ["network", "size px", "parameters", "million MACs", "data set", "taps", "published weights for"]
    print_table(header, rows, range(1, 4), ruled=False)
    print_lines("", *_NOTES)


def print_blocks(description: "Description") -> None:
    """Prints the size and the published weights of a network, and a table with one row per block."""
    model = description.model
    taps = {tap.block: tap for tap in model.taps}
    print_lines(
        f"{model.architecture}: {description.num_params:,} parameters, {description.num_macs:,} MACs per image of "
        f"{model.preprocessing.size_px} px, {model.num_classes:,} classes ({description.dataset})",
        f"published weights: {', '.join(file.file for file in description.published) or 'none known'}",
        "",
    )
    rows = []
    for block in description.blocks:
        tap = taps.get(block.name)
        field = "" if tap is None or tap.receptive_field_px is None else str(tap.receptive_field_px)
        tap_cells = [f"{tap.stride_px}", field, tap.name] if tap else ["", "", ""]
        output = " x ".join(map(str, block.output))
        rows.append([block.name, output, f"{block.num_params:,}", f"{block.num_macs:,}", *tap_cells])
    print_table(
        ["block", "output", "parameters", "MACs", "stride px", "field px", "tap"], rows, range(1, 6), ruled=False
    )
    print_lines("", *_NOTES, "field: receptive field. stride and field are in pixels of the input image.")


_NOTES = (
    "MACs: multiply-accumulates of convolutions and dense layers.",
    "taps: blocks whose output can be used as features.",
)
