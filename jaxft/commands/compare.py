"""`jaxft compare`: prints what differs between the weights of one network, layer by layer."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.core.errors import UserError
from jaxft.core.events import Warned, print_warnings
from jaxft.core.files import check_new
from jaxft.core.printing import print_lines
from jaxft.core.text import number, percent, plural

if TYPE_CHECKING:
    import pandas as pd

    from jaxft.analysis.comparison import Comparison

HELP = "print what differs between the weights of one network, by layer, and what they compute for images"
COMPUTES = True
MOST_LAYERS = 60  # rows of the printed table; more layers are in the files of --out
MOST_FILTERS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "reference", metavar="REFERENCE", help="weights to compare with, such as the pretrained weights"
    )
    parser.add_argument(
        "weights",
        nargs="+",
        metavar="WEIGHTS",
        help="one or more weight files of the same network, of any format, published names, or DIR:TRIAL for the final "
        "weights of a trial of the study in the work directory DIR",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="architecture of the weights, as in `jaxft models` (default: from the files; tensors of an unknown "
        "architecture are compared by their names)",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="PICTURES",
        help="an image file, folder or archive of images; compares the activations and the predictions of the networks "
        "for these images (can be repeated)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="write a page with figures and the tables as CSV to this new folder"
    )
    parser.add_argument("--force", action="store_true", help="replace files in the folder of --out")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the differences, and writes the page and the tables if there is --out.

    Raises:
      UserError: a file or the images cannot be used, the networks differ, or --out contains other files.
    """
    from jaxft.recipes.compare.run import compare
    from jaxft.report.comparison import PAGE, write_comparison

    if args.out is not None:
        out = Path(args.out)
        if out.exists() and not out.is_dir():
            raise UserError(f"--out is {args.out!r}, which is a file; name a folder.")
        check_new(out / PAGE, args.force)
    comparison = compare(args.reference, *args.weights, model=args.model, data=args.data)
    for note in comparison.notes:
        print_warnings(Warned(note.removesuffix(".")))
    print_comparison(comparison)
    if args.out is not None:
        print_lines("", *(f"  {path}" for path in write_comparison(Path(args.out), comparison)))
    return 0


def print_comparison(comparison: "Comparison") -> None:
    """Prints the tables of a comparison: networks, layers, filters, pairs and predictions."""
    what = comparison.model or "network that jaxft does not know"
    print_lines(
        f"reference: {comparison.labels[0]} ({what}; {comparison.num_values:,} parameters compared in "
        f"{plural(len(layers_of(comparison)), 'layer')})"
    )
    _print_networks(comparison)
    _print_layers(comparison)
    _print_filters(comparison)
    _print_pairs(comparison)
    _print_activations(comparison)
    _print_agreement(comparison)


def layers_of(comparison: "Comparison") -> list[str]:
    """Returns the names of the compared layers, in the order of the reference."""
    changes = comparison.changes
    return list(dict.fromkeys(changes.loc[changes["level"] == "layer", "name"]))


def _print_networks(comparison: "Comparison") -> None:
    from jaxft.core.tables import print_table

    changes = comparison.changes
    total = changes[changes["level"] == "total"].pivot(index="network", columns="measure", values="value")
    by_label = total.to_dict("index")
    rows = [[label, *_total_row(by_label[label])] for label in comparison.labels[1:]]
    header = ["network", "relative change", "L2 distance", "cosine", "changed signs %", "largest change"]
    print_table(header, rows, range(1, len(header)))


def _total_row(values: dict[Any, Any]) -> list[str]:
    sizes = [number(values[name]) for name in ("relative_l2", "l2")]
    return [*sizes, f"{values['cosine']:.6f}", percent(values["sign_flips"]), number(values["max_abs"])]


def _print_layers(comparison: "Comparison") -> None:
    from jaxft.core.tables import print_table

    changes, labels = comparison.changes, comparison.labels[1:]
    chosen = changes[(changes["level"] == "layer") & (changes["measure"] == "relative_l2")]
    table = chosen.pivot(index="name", columns="network", values="value").reindex(layers_of(comparison))[list(labels)]
    shown, more = table, ""
    if len(table) > MOST_LAYERS:
        largest = table.max(axis=1).nlargest(MOST_LAYERS).index
        shown = table[table.index.isin(largest)]
        more = f" (the {MOST_LAYERS} of {len(table)} layers that changed most; --out writes all)"
    print_lines(f"relative change ||w - w0|| / ||w0|| by layer{more}:")
    rows = [[str(layer), *map(number, row)] for layer, row in zip(shown.index, shown.to_numpy())]
    print_table(["layer", *labels], rows, range(1, len(labels) + 1))


def _print_filters(comparison: "Comparison") -> None:
    rows: list[str] = []
    for label, filters in comparison.filters.groupby("network", sort=False):
        top = [f"{leaf} {index} ({number(value)})" for leaf, index, value in filters.iloc[:MOST_FILTERS, 1:].to_numpy()]
        rows.append(f"filters of {label} that changed most: {', '.join(top)}")
    print_lines(*rows)


def _print_pairs(comparison: "Comparison") -> None:
    from jaxft.core.tables import print_table

    pairs = comparison.pairs[comparison.pairs["name"] == "total"]
    if not len(pairs):
        return
    table = pairs.pivot(index=["first", "second"], columns="measure", values="value").reset_index()
    rows = [
        [row["first"], row["second"], number(row["distance"]), f"{row['cosine']:.6f}", f"{row['change_cosine']:.4f}"]
        for row in table.to_dict("records")
    ]
    print_table(["network", "and", "L2 distance", "cosine", "cosine of changes"], rows, range(2, 5))


def _print_activations(comparison: "Comparison") -> None:
    from jaxft.core.tables import print_table

    activations = comparison.activations
    if activations is None:
        return
    print_lines(f"channels for {plural(activations.num_images, 'image')}, in the reference > in the network:")
    by_tap = activations.units.pivot(index=["network", "tap"], columns="measure", values="value")
    rows = [
        [label, tap, *_channel_row(by_tap.loc[(label, tap)].to_dict())]
        for label, tap in activations.units.set_index(["network", "tap"]).index.unique()
    ]
    header = ["network", "tap", "selectivity", "sparsity", "dead %", "same top images", "correlation"]
    print_table(header, rows, range(2, len(header)))
    print_lines(
        "means over the channels of a tap. selectivity: (largest class mean - mean of the others) / their sum, with "
        "the folders as classes. same top images: Jaccard index of the nine images that activate a channel most. "
        "correlation: of the responses of a channel in both networks."
    )


def _channel_row(values: dict[Any, float]) -> list[str]:
    pairs = [f"{number(values[f'{name}_before'])} > {number(values[name])}" for name in ("selectivity", "sparsity")]
    dead = f"{percent(values['dead_units_before'])} > {percent(values['dead_units'])}"
    return [*pairs, dead, number(values["top_jaccard"]), number(values["correlation"])]


def _print_agreement(comparison: "Comparison") -> None:
    from jaxft.core.tables import print_table

    if comparison.agreement is None or comparison.predictions is None:
        return
    print_lines(f"predictions for {plural(len(comparison.predictions), 'image')}, compared with the reference:")
    header = ["network", "accuracy %", "calibration error %", "same class %", "to right %", "to wrong %"]
    header += ["shared errors %", "error consistency"]
    rows = [_agreement_row(row) for _, row in comparison.agreement.iterrows()]
    print_table(header, rows, range(1, len(header)))
    print_lines(
        "to right, to wrong: images that only this network, or only the reference, classifies correctly. shared "
        "errors: share of images that both classify wrongly, among the images that one or both do. error consistency: "
        "0 for independent errors."
    )


def _agreement_row(row: "pd.Series") -> list[str]:
    shares = ("accuracy", "calibration_error", "same", "to_right", "to_wrong", "error_overlap")
    return [row["network"], *(percent(row[name]) for name in shares), number(row["error_consistency"])]
