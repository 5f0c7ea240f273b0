"""`jaxft models`: the networks that there are."""

import argparse

HELP = "list the networks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a network, to see its units and parameters")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the families, or one network's units."""
    from jaxft.models import create_model, families

    if args.name is None:
        for family in families():
            print(f"{', '.join(family.names)}\n    {family.summary}")
        return 0
    import math

    from jaxft.models import unit_of
    from jaxft.weights import expected_shapes

    model = create_model(args.name, num_classes=10)
    sizes = dict.fromkeys(model.units, 0)
    for name, shape in expected_shapes(model, model.preprocessing.size_px).items():
        if name.startswith("params/"):
            sizes[unit_of(name.removeprefix("params/"), model.units)] += math.prod(shape)
    taps = {tap.unit: tap for tap in model.taps}
    print(f"{args.name}: {sum(sizes.values()):,} parameters with a head of 10 classes")
    print(f"{'unit':<18}{'parameters':>12}  tap")
    for unit, size in sizes.items():
        tap = taps.get(unit)
        note = f"{tap.name}: stride {tap.stride_px} px, receptive field {tap.receptive_field_px} px" if tap else ""
        print(f"{unit:<18}{size:>12,}  {note}".rstrip())
    return 0
