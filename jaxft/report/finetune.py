"""The page and the model card of a network that was fine-tuned once: its record, laid out by the templates beside."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from PIL import Image

from jaxft.analysis.statistics import Interval, proportion_interval
from jaxft.core.files import replacing, saying_what_is_wrong
from jaxft.report import figures
from jaxft.report.figures import Curve
from jaxft.report.template import duration, percent, percent_interval, plural, render_template

PAGE, CARD = "report.html", "MODEL_CARD.md"
MOST_IN_MATRIX = 30  # classes that a matrix names
MOST_CELLS = 120  # of a side of a matrix without names
MOST_LISTED = 12
RIGHT, WRONG, NOTHING = "#0b5c8a", "#d55e00", "#f4f5f2"
LOSSLESS_PX = 96  # smaller pictures suffer from JPEG, and larger ones are large without it


class TestedClass(NamedTuple):
    """What became of the test images of a class; `taken_for` has the other classes and how often, the most first."""

    number: int
    name: str
    num_train: int
    num_test: int
    num_right: int
    taken_for: list[tuple[str, int]]

    @property
    def accuracy(self) -> float:
        """Returns the share of its test images that were right; nan where it has none."""
        return self.num_right / self.num_test if self.num_test else math.nan


class Pair(NamedTuple):
    """How many of the test images of a class were taken for another class."""

    truth: str
    predicted: str
    num_images: int
    num_test: int


class Cell(NamedTuple):
    """A cell of the matrix: how many images, and the colours of the cell and of its number."""

    num_images: int
    colour: str
    ink: str


def write_finetune_page(path: Path, record: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> None:
    """Writes the page of `record` to `path`; the same record and pictures give the same bytes.

    Args:
      record: what `jaxft finetune` keeps as `finetune.json`.
      pictures: [h, w, 3] uint8 of each of the record's mistakes, by its id.
    """
    page = render(record, pictures)
    with saying_what_is_wrong(path), replacing(path) as temporary:
        temporary.write_bytes(page.encode())


def render(record: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> str:
    """Returns the whole page as text."""
    classes = classes_of(record)
    small = len(classes) <= MOST_IN_MATRIX
    colours = figures.arm_colours(len(record["candidates"]))
    pairs = pairs_of(classes)
    return render_template(
        "finetune.html",
        record=record,
        **facts(record),
        candidates=list(zip(record["candidates"], colours)),
        selection_svg=selection_curves("selection", record["candidates"], colours),
        refit_svg=refit_curves("refit", record["refit_curves"], record["delivered_seed"]),
        refits=list(zip(record["refit_curves"], figures.arm_colours(len(record["refit_curves"])))),
        matrix=list(zip(record["data"]["class_names"], matrix_of(record))) if small else None,
        matrix_svg=None if small else coarse_matrix("confusion", np.array(record["confusion"])),
        classes_in_a_cell=classes_in_a_cell(len(classes)),
        pairs=pairs,
        shown_pairs=pairs[:MOST_LISTED],
        classes=classes,
        shown=classes if small else [c for c in classes if c.num_test][:MOST_LISTED],
        best=best_text(classes),
        image_worth=image_worth(classes),
        mistakes=[(mistake, data_uri(pictures[mistake["id"]])) for mistake in record["mistakes"]],
        num_wrong=sum(c.num_test - c.num_right for c in classes),
    )


def model_card(record: Mapping[str, Any]) -> str:
    """Returns the model card, Markdown with the front matter that the Hugging Face Hub reads."""
    classes = classes_of(record)
    return render_template(
        "model_card.md",
        record=record,
        **facts(record),
        license=record.get("license", "unknown"),
        classes=sorted(classes),
        named=len(classes) <= MOST_IN_MATRIX,
        hardest=[c for c in classes if c.accuracy < 1][:5],
    )


def summary_lines(record: Mapping[str, Any], folder: str | Path = "") -> list[str]:
    """Returns what the command prints at its end: candidates, test accuracy, and the files, which are in `folder`."""
    known, data = facts(record), record["data"]
    rows = [("candidate", "learning rate", "validation %", "time")]
    for candidate in record["candidates"]:
        mark = " *" if candidate["selected"] else ""
        outcome = "diverged" if candidate["diverged"] else percent(candidate["val_accuracy"])
        rate = candidate["learning_rate"]
        rows.append(
            (candidate["name"] + mark, "–" if rate is None else f"{rate:g}", outcome, duration(candidate["seconds"]))
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    table = ["  ".join([r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:])]) for r in rows]
    over = f"mean and 95 % interval over {plural(known['test'].num_values, 'seed')}; " if known["has_interval"] else ""
    return [
        *table,
        f"* selected on {plural(known['num_judged'], 'validation image')}, "
        f"then trained again on all {known['num_learnt']:,}",
        "",
        f"test accuracy: {percent_interval(known['test'])} % ({over}{plural(data['test'], 'image')})",
        f"delivered: seed {record['delivered_seed']}, {percent(known['delivered'])} %",
        *(f"  {Path(folder) / name}" for name in (*record["files"], PAGE, CARD)),
    ]


# --- numbers ------------------------------------------------------------------------------------------------


def facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the page, the card and the command say alike."""
    data, test = record["data"], record["test"]
    half_width = math.nan if test["half_width"] is None else test["half_width"]
    delivered = test["accuracy"][record["seeds"].index(record["delivered_seed"])]
    path = PurePath(data["path"])
    return {
        "data_name": path.stem if path.suffix in (".zip", ".npz") else path.name,
        "num_classes": len(data["class_names"]),
        "num_learnt": data["train"] + data["val"],
        "num_judged": data["folds"] * data["val"],
        "test": Interval(test["mean"], half_width, len(test["accuracy"])),
        "has_interval": test["half_width"] is not None,
        "delivered": delivered,
        "likely": proportion_interval(delivered, data["test"]),
        "largest_share": max(data["test_per_class"]) / data["test"],
        "selected": next(c for c in record["candidates"] if c["selected"]),
        "usage": usage(record),
    }


def classes_of(record: Mapping[str, Any]) -> list[TestedClass]:
    """Returns the classes, the least accurate first, of equals that with more test images; untested ones last."""
    names, confusion = record["data"]["class_names"], record["confusion"]
    found = []
    for i, (name, row) in enumerate(zip(names, confusion)):
        others = [(names[j], count) for j, count in enumerate(row) if count and j != i]
        others.sort(key=lambda other: -other[1])
        found.append(TestedClass(i, name, record["data"]["train_per_class"][i], sum(row), row[i], others))
    return sorted(found, key=lambda c: (not c.num_test, c.accuracy if c.num_test else 0, -c.num_test))


def pairs_of(classes: Sequence[TestedClass]) -> list[Pair]:
    """Returns which class was taken for which, the most frequent first, of equals the larger share of the class."""
    pairs = [Pair(c.name, other, count, c.num_test) for c in sorted(classes) for other, count in c.taken_for]
    return sorted(pairs, key=lambda pair: (-pair.num_images, -pair.num_images / pair.num_test))


def best_text(classes: Sequence[TestedClass]) -> str:
    """Returns a sentence on the most accurate classes."""
    tested = [c for c in classes if c.num_test]
    perfect = [c for c in tested if c.accuracy == 1]
    if perfect:
        return f"In {len(perfect):,} of {len(tested):,} classes every test image is right."
    return f"The best are {', '.join(f'{c.name} ({percent(c.accuracy)} %)' for c in tested[:-4:-1])}."


def image_worth(classes: Sequence[TestedClass]) -> str:
    """Returns a sentence on how much one test image moves the accuracy of a class."""
    counts = sorted({c.num_test for c in classes if c.num_test})
    if len(counts) == 1:
        return f"A class has {plural(counts[0], 'test image')}, so one is {100 / counts[0]:.2g} points."
    return (
        f"A class has {counts[0]:,} to {counts[-1]:,} test images, so one is "
        f"{100 / counts[-1]:.2g} to {100 / counts[0]:.3g} points."
    )


def usage(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns ways to use the files, from the folder that they are in: (with what, language, code)."""
    first, size_px = record["files"][0], record["data"]["size_px"]
    flax = next((name for name in record["files"] if name.endswith(".msgpack")), first)
    ways = [
        ("On the command line", "sh", f"jaxft predict PICTURES --weights {first}"),
        (
            "In Flax",
            "python",
            "from jaxft.weights.files import read_network\n\n"
            f'model, variables, manifest = read_network("{flax}")\n'
            "inputs = manifest.preprocessing.apply(images)"
            f"  # uint8 [n, {size_px}, {size_px}, 3], RGB\n"
            "logits = model.apply(variables, inputs)",
        ),
    ]
    if record["layout"] == "torch" and first != flax:
        safetensors = first.endswith(".safetensors")
        reader = "from safetensors.torch import load_file" if safetensors else "import torch"
        tensors = f'load_file("{first}")' if safetensors else f'torch.load("{first}", weights_only=True)'
        outputs = len(record["data"]["class_names"])
        code = f"{reader}\n\nnetwork.load_state_dict({tensors})  # {record['model']} in PyTorch, with {outputs} outputs"
        ways.append(("In PyTorch", "python", code))
    return ways


# --- pictures -----------------------------------------------------------------------------------------------


def matrix_of(record: Mapping[str, Any]) -> list[list[Cell]]:
    """Returns the confusion matrix in colours: blue what is right, orange what is wrong, by the share of the row."""
    rows = []
    for i, row in enumerate(record["confusion"]):
        total = max(sum(row), 1)
        cells = []
        for j, count in enumerate(row):
            depth = count / total if i == j else math.sqrt(count / total)  # few wrong ones are to be seen, too
            colour = shade(RIGHT if i == j else WRONG, depth)
            cells.append(Cell(count, to_hex(colour), "#ffffff" if luminance(colour) < 0.22 else figures.INK))
        rows.append(cells)
    return rows


def shade(hue: str, depth: float) -> np.ndarray:
    """Returns `hue` mixed with the colour of nothing: `depth` 1 is all of it, and 0 none."""
    return np.asarray(to_rgb(NOTHING)) * (1 - depth) + np.asarray(to_rgb(hue)) * depth


def luminance(colour: np.ndarray) -> float:
    """Returns the relative luminance of a colour in sRGB (WCAG 2)."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def classes_in_a_cell(num_classes: int) -> int:
    """Returns how many classes, in their order, share a row and a column of the matrix without names."""
    return math.ceil(num_classes / MOST_CELLS)


@figures.style()
def coarse_matrix(name: str, confusion: np.ndarray) -> Markup:
    """Returns a picture of the confusion matrix, [classes, classes] int, in which so many have no names."""
    n, step = len(confusion), classes_in_a_cell(len(confusion))
    blocks = np.add.reduceat(np.add.reduceat(confusion, range(0, n, step), axis=0), range(0, n, step), axis=1)
    share = blocks / np.maximum(blocks.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(blocks), dtype=bool)
    worst = max(share[~diagonal].max(), 0.1)
    depth = np.where(diagonal, share, np.sqrt(share / worst))[..., None]
    hue = np.where(diagonal[..., None], to_rgb(RIGHT), to_rgb(WRONG))
    figure = Figure(figsize=(4.9, 4.7))
    axes = figures.axes_at(figure, 0.6, 0.05, 4.1, 4.1)
    side = len(blocks) * step
    colours = to_rgb(NOTHING) * (1 - depth) + hue * depth
    axes.imshow(colours, interpolation="none", extent=(0, side, side, 0))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    for axis, label in ((axes.xaxis, "predicted class, by its number"), (axes.yaxis, "true class")):
        axis.set_major_locator(MaxNLocator(6, integer=True, steps=figures.TICK_STEPS))
        axis.set_label_text(label)
    return figures.to_svg(figure, name, "Confusion matrix of all classes")


def selection_curves(name: str, candidates: Sequence[Mapping[str, Any]], colours: Sequence[str]) -> Markup | None:
    """Returns the validation accuracy of each candidate by epoch; None where there are no numbers.

    The axis ends a little below the lowest end of a curve: where they begin says nothing of which is best. A head that
    was fitted to all images at once is a point at 0 epochs.
    """
    curves = [as_curve(candidate["curves"], "val_accuracy") for candidate in candidates]
    ends = [100 * curve.mean[-1] for curve in curves if len(curve.mean) and np.isfinite(curve.mean[-1])]
    if not ends:
        return None
    low, high = figures.limits(curves, 100.0) or (0.0, 100.0)
    view = max(low, min(ends) - 2 * (max(ends) - min(ends)) - 5), min(high, 101)
    lines = [(curve, colour, c["selected"]) for curve, colour, c in zip(curves, colours, candidates)]
    return draw_curves(name, "Validation accuracy of the candidates by epoch", lines, 100.0, "accuracy, %", view)


def refit_curves(name: str, refits: Sequence[Mapping[str, Any]], delivered_seed: int) -> Markup | None:
    """Returns the training loss of each seed by epoch; None where there are no numbers, or one of each only."""
    curves = [as_curve(refit, "train_loss") for refit in refits]
    view = figures.limits(curves, 1.0)
    if view is None or all(len(curve.epoch) == 1 for curve in curves):
        return None
    colours = figures.arm_colours(len(refits))
    lines = [(curve, c, refit["seed"] == delivered_seed) for curve, c, refit in zip(curves, colours, refits)]
    return draw_curves(name, "Training loss of the refits by epoch", lines, 1.0, "loss", view)


def as_curve(curves: Mapping[str, Any], name: str) -> Curve:
    """Returns one of the curves of a record; what diverged (None) is nan."""
    values = np.array(curves[name], dtype=np.float64)
    return Curve(np.array(curves["epoch"], dtype=np.float64), values, np.zeros_like(values))


@figures.style()
def draw_curves(
    name: str,
    description: str,
    lines: Sequence[tuple[Curve, str, bool]],
    factor: float,
    label: str,
    view: tuple[float, float],
) -> Markup:
    """Returns a picture of curves with their colours, those marked in front and bold, `factor` times their values."""
    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    axes = figure.add_subplot()
    for curve, colour, bold in lines:
        dot = "o" if len(curve.epoch) == 1 else None  # a line of one point is not seen
        width, front = (2.0, 3) if bold else (1.3, 2)
        (line,) = axes.plot(curve.epoch, factor * curve.mean, marker=dot, color=colour, linewidth=width, zorder=front)
        line.set_clip_on(dot is None)  # at 0 epochs half a dot would be cut off
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.set_xlim(0, max(1.0, *(float(curve.epoch.max(initial=0)) for curve, _, _ in lines)))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=figures.TICK_STEPS))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=figures.TICK_STEPS))
    if view[0] > 0 and view[1] > 10 * view[0]:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
    axes.set_ylim(*view)
    return figures.to_svg(figure, name, description)


def data_uri(image: np.ndarray) -> str:
    """Returns a picture, [h, w, 3] uint8, as a URI that holds it: PNG where it is small, else JPEG."""
    buffer = io.BytesIO()
    form = "png" if max(image.shape[:2]) <= LOSSLESS_PX else "jpeg"
    Image.fromarray(image).save(buffer, form, **({"quality": 85} if form == "jpeg" else {}))
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"
