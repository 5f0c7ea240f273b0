"""`jaxft models`: the networks that there are, and what each is made of."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxft.core.tables import print_table

if TYPE_CHECKING:
    from jaxft.models import Network, Published
    from jaxft.models.cost import UnitCost

HELP = "list the networks, or show what they are made of"
SMALL_PX = 64  # networks for images up to this size are usually trained on CIFAR-10, others on ImageNet


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

    if args.name:
        for i, description in enumerate([describe_model(name) for name in args.name]):
            print("\n" * (i > 0), end="")
            print_units(description)
    elif args.detail:
        print_networks([describe_model(name) for name in list_models()])
    else:
        for family in list_families():
            print(f"{', '.join(family.names)}\n    {family.summary}")
    return 0


@dataclass(frozen=True)
class Description:
    """What a network is made of, with a head for the classes of `dataset`, on images of its usual size."""

    model: "Network"
    dataset: str
    units: tuple["UnitCost", ...]

    @property
    def num_params(self) -> int:
        """Returns the number of parameters; batch norm's running statistics are none."""
        return sum(unit.num_params for unit in self.units)

    @property
    def num_macs(self) -> int:
        """Returns the multiply-accumulates of convolutions and dense layers for one image."""
        return sum(unit.num_macs for unit in self.units)

    @property
    def published(self) -> tuple["Published", ...]:
        """Returns which published weight files are known."""
        from jaxft.models import published

        return tuple(file for file in published() if file.model == self.model.architecture)


def describe_model(name: str) -> Description:
    """Returns what the network called `name` is made of, without computing anything.

    Raises a `UserError` for a name that no family has.
    """
    from jaxft.models import create_model
    from jaxft.models.class_names import CLASS_NAMES
    from jaxft.models.cost import unit_costs

    size_px = create_model(name, num_classes=2).preprocessing.size_px
    dataset = "cifar10" if size_px <= SMALL_PX else "imagenet"
    model = create_model(name, num_classes=len(CLASS_NAMES[dataset]))
    return Description(model, dataset, unit_costs(model, size_px))


def print_networks(descriptions: Sequence[Description]) -> None:
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


def print_units(description: Description) -> None:
    """Prints what is known of a network as a whole, and a row a unit."""
    model = description.model
    taps = {tap.unit: tap for tap in model.taps}
    print(
        f"{model.architecture}: {description.num_params:,} parameters, {description.num_macs:,} MACs an image of "
        f"{model.preprocessing.size_px} px; head for the {model.num_classes:,} classes of {description.dataset}\n"
        f"published weights: {', '.join(file.file for file in description.published) or 'none known'}\n"
    )
    rows = []
    for unit in description.units:
        tap = taps.get(unit.name)
        place = [f"{tap.stride_px}", f"{tap.receptive_field_px}", tap.name] if tap else ["", "", ""]
        output = " x ".join(map(str, unit.output))
        rows.append([unit.name, output, f"{unit.num_params:,}", f"{unit.num_macs:,}", *place])
    print_table(["unit", "output", "parameters", "MACs", "stride", "field", "tap"], rows, range(1, 6), ruled=False)
    print(f"\n{_NOTE} stride, field: step and receptive field in px.")


_NOTE = "MACs: multiply-accumulates of convolutions and dense layers."
