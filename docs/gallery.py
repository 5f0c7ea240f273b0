"""Draws the pictures of docs/gallery.md from a real study.

    python docs/gallery.py --workdir DIR

The study is `configs/units.py` with snapshots: a residual network of 14 layers, pretrained on CIFAR-100, is fine-tuned
on scenes at three learning rates of the backbone, and trained from scratch at two, with five seeds each. A study that
is already in DIR is not trained again.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

import jaxft
from jaxft.analysis.activation_maximization import maximize_activations
from jaxft.analysis.barriers import loss_barrier, loss_plane
from jaxft.analysis.embedding import embed
from jaxft.analysis.filter_images import filter_images
from jaxft.analysis.guided import guided
from jaxft.analysis.parameters import layer_changes, pairwise_distances
from jaxft.analysis.receptive_fields import patches, receptive_fields
from jaxft.analysis.saliency import grad_cam, gradient_saliency, normalized, over_runs, upsampled
from jaxft.analysis.similarity_matrices import stream_similarity
from jaxft.analysis.spectra import spectra
from jaxft.analysis.statistics import mean_interval
from jaxft.analysis.top_images import most_changed_units
from jaxft.analysis.unit_changes import unit_changes
from jaxft.config import Study, from_dict, load_config, to_dict
from jaxft.core.paths import unflatten
from jaxft.report.figures.activations import filter_sheet
from jaxft.report.figures.style import saved, style
from jaxft.store.records import Store
from jaxft.study.analyses.analysis import TrainedTrial
from jaxft.study.plan import make_plan
from jaxft.study.services import make_services
from jaxft.study.work import Work

ROOT = Path(__file__).resolve().parent
STEPS = [1, 2, 5, 10, 20, 50, 100, 180]
GRAYS = ("#000000", "#7a7a7a", "#b8b8b8")
LINES = ("-", "--", ":")
Trials = dict[str, list[TrainedTrial]]  # of each setting, one trial per seed


def run(workdir: Path) -> Trials:
    """Returns the trained trials of the study by setting; runs the study if it is not finished."""
    fields = to_dict(load_config(str(ROOT.parent / "configs" / "units.py")).study)
    fields["execution"]["snapshot_steps"] = STEPS
    fields["analyses"] = ["units", "representation", "trajectory"]
    study = from_dict(Study, fields)
    jaxft.run_study(study, workdir)
    plan = make_plan(study)
    work = Work(plan, Store(workdir), make_services(plan.study.execution, lambda event: None))
    trials: Trials = {}
    for planned in plan.trials:
        levels = plan.levels(planned.trial)
        rate = levels["training.layers.backbone_learning_rate"]
        trials.setdefault(f"{levels['training.initialization.start']}, {rate:g}", []).append(
            TrainedTrial(work, planned)
        )
    return trials


def stacked(trees: Sequence[Any]) -> Any:
    """Returns trees as one tree with an axis of runs."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def nested(variables: Any) -> Any:
    """Returns variables as nested dicts."""
    return {collection: unflatten(leaves) for collection, leaves in variables.items()}


def backbone(params: Any) -> dict[str, np.ndarray]:
    """Returns the parameters below the head."""
    return {name: np.asarray(leaf, np.float64) for name, leaf in params.items() if not name.startswith("head/")}


def norm(params: dict[str, np.ndarray], start: dict[str, np.ndarray] | None = None) -> float:
    """Returns the L2 norm of parameters, or of their difference to `start`."""
    leaves = (leaf if start is None else leaf - start[name] for name, leaf in params.items())
    return float(np.sqrt(sum((leaf**2).sum() for leaf in leaves)))


def mean_lines(axes: Any, x: Sequence[Any], by_setting: dict[str, np.ndarray]) -> None:
    """Draws the mean over seeds of each setting, [seeds, x], with 95% intervals, in different gray lines."""
    for i, (setting, values) in enumerate(by_setting.items()):
        intervals = [mean_interval(column) for column in values.T]
        mean, half = (np.array([getattr(interval, name) for interval in intervals]) for name in ("mean", "half_width"))
        color, line = GRAYS[i % 3], LINES[i // 3]
        axes.plot(x, mean, line, marker="osD^v"[i], markersize=4, color=color, label=setting)
        axes.fill_between(x, mean - half, mean + half, color=color, alpha=0.15, linewidth=0)


def log_scale(axes: Any, side: str) -> None:
    """Makes the x or y axis logarithmic, with plain numbers."""
    getattr(axes, f"set_{side}scale")("log")
    getattr(axes, f"{side}axis").set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def change_by_layer(trials: Trials) -> Figure:
    """Relative change of each kernel of the network, by setting."""
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    by_setting = {}
    for setting, runs in trials.items():
        before, after = (stacked([getattr(t, side)["params"] for t in runs]) for side in ("initial", "final"))
        changes = layer_changes(before, after, own_starts=True)
        names = [name for name in runs[0].planned.model.structure.parameters if "conv" in name and "head" not in name]
        layers = [name.rpartition("/")[0] for name in names]
        by_setting[setting] = np.stack([np.asarray(changes[layer]["relative_l2"]) for layer in layers], 1)
    mean_lines(axes, range(len(layers)), by_setting)
    axes.set_xticks(range(len(layers)), [layer.replace("/downsample", "/short") for layer in layers], rotation=90)
    log_scale(axes, "y")
    axes.set_ylabel("relative change ‖w - w0‖ / ‖w0‖")
    axes.legend(title="start, learning rate", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def spectrum(trials: Trials) -> Figure:
    """Singular values of the change of two kernels, relative to the largest."""
    kernels = ("stage1/block2/conv2/kernel", "stage3/block2/conv2/kernel")
    figure = Figure(figsize=(7.5, 3.0), layout="constrained")
    for i, name in enumerate(kernels):
        axes = figure.add_subplot(1, 2, i + 1)
        by_setting = {}
        for setting, runs in trials.items():
            before, after = (
                {name: np.stack([getattr(t, s)["params"][name] for t in runs])} for s in ("initial", "final")
            )
            values = np.asarray(spectra(before, after, 16, own_starts=True)[name].singular_values)
            by_setting[setting] = values / values[:, :1]
        mean_lines(axes, range(1, 17), by_setting)
        axes.set_title(name.removesuffix("/kernel"), loc="left", size=9.5)
        axes.set_xlabel("number of the singular value")
        axes.set_xticks(range(1, 17, 3))
        axes.set_ylim(0, 1.03)
        if not i:
            axes.set_ylabel("singular value of the change / largest")
    axes.legend(title="start, learning rate")
    return figure


def trajectory(trials: Trials) -> Figure:
    """Distance of the weights from the initial weights during training, by setting."""
    figure = Figure(figsize=(5.2, 3.0), layout="constrained")
    axes = figure.add_subplot()
    by_setting = {}
    for setting, runs in trials.items():
        rows = []
        for trial in runs:
            start = backbone(trial.initial["params"])
            rows.append([norm(backbone(params), start) / norm(start) for _, params in trial.snapshots()])
        by_setting[setting] = np.array(rows)
    mean_lines(axes, STEPS, by_setting)
    log_scale(axes, "x")
    log_scale(axes, "y")
    axes.set_xlabel("training step")
    axes.set_ylabel("relative distance from the start")
    axes.legend(title="start, learning rate", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def distances(trials: Trials) -> Figure:
    """Distances between the final weights of all runs of the backbone."""
    runs = [backbone(trial.final["params"]) for of_setting in trials.values() for trial in of_setting]
    by_layer = jax.device_get(pairwise_distances(stacked(runs)))
    total = np.sqrt(sum(matrix.astype(float) ** 2 for matrix in by_layer.values()))
    figure = Figure(figsize=(5.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(total, cmap="Greys", interpolation="none")
    count = len(next(iter(trials.values())))
    axes.set_yticks([count * i + (count - 1) / 2 for i in range(len(trials))], list(trials))
    axes.set_xticks([count * i + (count - 1) / 2 for i in range(len(trials))], list(trials), rotation=90)
    axes.tick_params(length=0)
    axes.grid(False)
    for i in range(1, len(trials)):
        axes.axhline(count * i - 0.5, color="white")
        axes.axvline(count * i - 0.5, color="white")
    figure.colorbar(image, label="L2 distance of the backbones", shrink=0.8)
    return figure


def barrier(trials: Trials) -> Figure:
    """Loss on the line between two seeds of each setting."""
    figure = Figure(figsize=(5.6, 3.0), layout="constrained")
    axes = figure.add_subplot()
    for i, (setting, (first, second, *_)) in enumerate(trials.items()):
        line = loss_barrier(first.loss, first.final, second.final, recalibrate=first.recalibrated)
        axes.plot(
            line.alphas, line.losses, LINES[i // 3], marker="osD^v"[i], markersize=4, color=GRAYS[i % 3], label=setting
        )
    axes.set_xlabel("position between seed 0 and seed 1")
    axes.set_ylabel("validation loss, nats")
    axes.set_ylim(0)
    axes.legend(title="start, learning rate", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plane(trials: Trials) -> Figure:
    """Loss in the plane through the pretrained weights and two fine-tuned networks."""
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    for i, setting in enumerate(["pretrained, 0.001", "pretrained, 0.1"]):
        first, second, *_ = trials[setting]

        def recalibrated(params: Any, first: TrainedTrial = first) -> Any:
            return first.recalibrated({"params": params, "batch_stats": first.final["batch_stats"]})

        start = dict(first.initial["params"]) | head_of(first)
        result = loss_plane(
            first.loss, [start, first.final["params"], second.final["params"]], (9, 9), 0.25, recalibrated
        )
        axes = figure.add_subplot(1, 2, i + 1)
        levels = np.geomspace(result.losses.min(), result.losses.max(), 12)
        filled = axes.contourf(result.x, result.y, result.losses, levels, cmap="Greys")
        axes.contour(result.x, result.y, result.losses, levels, colors="black", linewidths=0.4)
        for name, marker, point in zip(("pretrained", "seed 0", "seed 1"), "so^", result.points):
            axes.plot(*point, marker, color="black", markeredgecolor="white", markersize=8, label=name)
        axes.set_title(setting, loc="left", size=9.5)
        axes.set_xlabel("distance in the plane")
        axes.grid(False)
        figure.colorbar(filled, label="validation loss, nats", format="%.2g")
    axes.legend()
    return figure


def head_of(trial: TrainedTrial) -> dict[str, Any]:
    """Returns the trained head of a trial: the initial one is random."""
    return {name: leaf for name, leaf in trial.final["params"].items() if name.startswith("head/")}


def representation(trials: Trials) -> Figure:
    """CKA between all taps before and after training, and of each tap by setting."""
    figure = Figure(figsize=(7.8, 3.1), layout="constrained")
    settings = ["pretrained, 0.001", "pretrained, 0.1"]
    taps = [tap.name for tap in trials[settings[0]][0].planned.model.taps]
    widths = figure.subfigures(1, 2, width_ratios=[1.5, 1])
    for i, setting in enumerate(settings):
        trial = trials[setting][0]
        batches = ((trial.apply(trial.initial, x), trial.apply(trial.final, x)) for x, _ in trial.validation_batches())
        axes = widths[0].add_subplot(1, 2, i + 1)
        image = axes.imshow(stream_similarity(batches).cka, cmap="Greys", vmin=0, vmax=1, interpolation="none")
        axes.set_xticks(range(len(taps)), taps, rotation=90)
        axes.set_yticks(range(len(taps)), taps if not i else [])
        axes.set_xlabel("after training")
        axes.set_title(setting, loc="left", size=9.5)
        axes.grid(False)
        if not i:
            axes.set_ylabel("before training")
    widths[0].colorbar(image, ax=widths[0].axes, label="linear CKA", shrink=0.7)
    axes = widths[1].add_subplot()
    mean_lines(axes, taps, {s: tap_cka(runs) for s, runs in trials.items()})
    axes.set_ylabel("linear CKA before and after")
    axes.set_ylim(0, 1.03)
    axes.legend(title="start, learning rate", fontsize=7, title_fontsize=7)
    return figure


def tap_cka(runs: Sequence[TrainedTrial]) -> np.ndarray:
    """Returns [seeds, taps]."""
    table = jaxft.load_analyses(runs[0].work.store.workdir).query("analysis == 'representation' and level == 'block'")
    digests = [t.planned.digest for t in runs]
    levels = runs[0].work.plan.levels(runs[0].planned.trial)
    rows = table[(table[list(levels)] == list(levels.values())).all(axis=1)]
    taps = [tap.block for tap in runs[0].planned.model.taps]
    return rows.pivot(index="seeds", columns="name", values="value")[taps].to_numpy(float)[: len(digests)]


def changes_of_units(trial: TrainedTrial) -> Any:
    """Returns {tap: UnitChanges} of a trial."""
    batches = (
        (trial.apply(trial.initial, x), trial.apply(trial.final, x), labels) for x, labels in trial.validation_batches()
    )
    return unit_changes(batches, trial.planned.model.num_classes)


def selectivity(trials: Trials) -> Figure:
    """Distribution of the selectivity of single units before and after training, by tap."""
    figure = Figure(figsize=(7.5, 2.6), layout="constrained")
    trial = trials["pretrained, 0.1"][0]
    for i, (tap, changes) in enumerate(changes_of_units(trial).items()):
        axes = figure.add_subplot(1, 4, i + 1)
        bins = np.linspace(0, 1, 21)
        for values, color, label in ((changes.before, "#b8b8b8", "before"), (changes.after, "#000000", "after")):
            known = values.selectivity[~np.isnan(values.selectivity)]
            kind = {"histtype": "stepfilled"} if label == "before" else {"histtype": "step", "linewidth": 1.5}
            axes.hist(known, bins, color=color, label=label, **kind)
        axes.set_title(tap, loc="left", size=9.5)
        axes.set_xlabel("class selectivity")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.axes[0].set_ylabel("units")
    figure.axes[-1].legend()
    return figure


def pixels_of(trial: TrainedTrial) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (preprocessed images, images from 0 to 1, labels) of the validation images."""
    images, labels = map(np.concatenate, zip(*trial.validation_batches(), strict=True))
    preprocessing = trial.planned.program.phases[-1].preprocessing
    mean, std = (np.asarray(getattr(preprocessing, name), np.float32) for name in ("mean", "std"))
    colors = images * std + mean
    return images, np.clip(colors / max(1.0, colors.max()), 0, 1), labels


def top_patches(trials: Trials) -> Figure:
    """Receptive fields that activate the most changed units of each tap, before and after training."""
    trial, count = trials["pretrained, 0.1"][0], 6
    images, colors, _ = pixels_of(trial)
    model = trial.planned.model
    figure = Figure(figsize=(7.5, 4.6))
    rows = [
        (tap.name, unit, changes)
        for tap, changes in zip(model.taps, changes_of_units(trial).values())
        for unit in most_changed_units(changes.top_before, changes.top_after, 2, changes.pairs.correlation)
    ]
    fields = {
        tap.name: receptive_fields(
            functools.partial(model.apply, nested(trial.initial), stop=tap.block), images.shape[1:]
        )
        for tap in model.taps
    }
    grid = figure.add_gridspec(len(rows), 2 * count + 1, left=0.2, right=0.99, top=0.92, bottom=0.01, hspace=0.15)
    for r, (tap, unit, changes) in enumerate(rows):
        for side, top in enumerate((changes.top_before, changes.top_after)):
            active = top.is_active[:count, unit.unit].nonzero()[0]
            boxes = fields[tap].boxes(top.positions[active, unit.unit])
            for c, patch in enumerate(patches(colors[top.images[active, unit.unit]], boxes)):
                axes = figure.add_subplot(grid[r, side * (count + 1) + c])
                axes.imshow(patch, interpolation="none")
                axes.set_axis_off()
                if not r and not c:
                    axes.set_title(("before", "after")[side], loc="left", size=9.5)
            if not len(active):
                axes = figure.add_subplot(grid[r, side * (count + 1) : side * (count + 1) + count])
                axes.text(0, 0.5, "active for no image", va="center")
                axes.set_axis_off()
                if not r:
                    axes.set_title(("before", "after")[side], loc="left", size=9.5)
        y = 0.92 - 0.91 * (r + 0.5) / len(rows)
        figure.text(0.19, y, f"{tap}, unit {unit.unit}", ha="right", va="center")
    return figure


def saliency(trials: Trials) -> Figure:
    """Saliency maps for four images: means over five seeds."""
    runs = trials["pretrained, 0.01"]
    images, colors, labels = pixels_of(runs[0])
    chosen = [int(np.flatnonzero(labels == label)[0]) for label in (0, 1, 3, 4)]
    x, classes = jax.numpy.asarray(images[chosen]), jax.numpy.asarray(labels[chosen])
    model = runs[0].planned.model
    block = model.taps[-1].block
    below, above = functools.partial(model.apply, stop=block), functools.partial(model.apply, after=block)
    variables = stacked([nested(trial.final) for trial in runs])
    guided_scores = guided(model.apply)
    methods: dict[str, Callable[[Any], jax.Array]] = {
        "gradient": lambda v: normalized(gradient_saliency(model.apply, v, x, classes)),
        "guided backprop.": lambda v: normalized(gradient_saliency(guided_scores, v, x, classes)),
        "Grad-CAM": lambda v: normalized(upsampled(grad_cam(below, above, v, x, classes), images.shape[1:3])),
    }
    figure = Figure(figsize=(5.4, 4.8), layout="constrained")
    columns = {name: over_runs(method, variables) for name, method in methods.items()}
    titles = ["image", *methods, "std of Grad-CAM"]
    for i in range(len(chosen)):
        pictures = [colors[chosen[i]], *(result.mean[i] for result in columns.values()), columns["Grad-CAM"].std[i]]
        for j, picture in enumerate(pictures):
            axes = figure.add_subplot(len(chosen), len(titles), i * len(titles) + j + 1)
            axes.imshow(picture, cmap="gray", interpolation="none")
            axes.set_axis_off()
            if not i:
                axes.set_title(titles[j], size=8.5)
    return figure


def first_filters(trials: Trials) -> Figure:
    """The filters of the first convolution before and after training, and their difference."""
    trial = trials["pretrained, 0.1"][0]
    kernel = trial.planned.model.structure.parameters[0]
    sheet = filter_sheet(filter_images(trial.initial["params"][kernel], trial.final["params"][kernel]), 32)
    figure = Figure(figsize=(7.5, 1.1), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(sheet, interpolation="none")
    height = sheet.shape[0] / 3
    axes.set_yticks([height * (i + 0.5) for i in range(3)], ["before", "after", "difference"])
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    return figure


def features(trials: Trials) -> Figure:
    """PCA and t-SNE of the features of the validation images, before and after training."""
    trial = trials["pretrained, 0.01"][0]
    images, _, labels = pixels_of(trial)
    tap = trial.planned.model.taps[-1].name
    sides = [np.asarray(trial.apply(v, images)[tap].mean((1, 2))) for v in (trial.initial, trial.final)]
    names = jaxft.load(trial.work.store.weights_path(trial.planned.digest)).class_names
    figure = Figure(figsize=(6.6, 6.0), layout="constrained")
    for i, method in enumerate(("pca", "tsne")):
        embeddings = embed(*sides, method=method)
        for j, points in enumerate(embeddings):
            axes = figure.add_subplot(2, 2, 2 * i + j + 1)
            for k, name in enumerate(names):
                shade = str(0.75 * k / 5)
                axes.plot(
                    *points[labels == k].T, "osD^vP"[k], color=shade, markersize=3.5, markeredgewidth=0, label=name
                )
            axes.set_title(f"{'PCA' if method == 'pca' else 't-SNE'}, {('before', 'after')[j]}", loc="left", size=9.5)
            axes.set_xlabel("first component")
            axes.set_ylabel("second component")
            axes.grid(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", markerscale=1.5)
    return figure


def maximized(trials: Trials) -> Figure:
    """Images that maximize units of the last tap, before and after training."""
    trial, count = trials["pretrained, 0.1"][0], 8
    changes = changes_of_units(trial)["stage3"]
    chosen = most_changed_units(changes.top_before, changes.top_after, count, changes.pairs.correlation)
    units = [unit.unit for unit in chosen]
    block = trial.planned.model.taps[-1].block
    activations = functools.partial(trial.planned.model.apply, stop=block)
    figure = Figure(figsize=(7.5, 2.1), layout="constrained")
    for i, variables in enumerate((trial.initial, trial.final)):
        result = maximize_activations(activations, nested(variables), units, (32, 32, 3), jax.random.key(0))
        for j, image in enumerate(result.images):
            axes = figure.add_subplot(2, count, i * count + j + 1)
            low, high = np.percentile(image, [1, 99])
            axes.imshow(np.clip((image - low) / (high - low), 0, 1), interpolation="none")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if not i:
                axes.set_title(f"unit {units[j]}", size=8.5)
            if not j:
                axes.set_ylabel(("before", "after")[i])
    return figure


FIGURES: tuple[Callable[[Trials], Figure], ...] = (
    *(change_by_layer, spectrum, trajectory, distances, barrier, plane, representation, selectivity, top_patches),
    *(saliency, first_filters, features, maximized),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the study and writes a figure of each kind to docs/gallery."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="work directory of the study")
    parser.add_argument("--only", nargs="*", help="names of the figures to draw")
    parser.add_argument("--out", type=Path, default=ROOT / "gallery")
    args = parser.parse_args(argv)
    matplotlib.use("Agg")
    trials = run(args.workdir)
    args.out.mkdir(exist_ok=True)
    for function in FIGURES:
        if args.only and function.__name__ not in args.only:
            continue
        with style():
            figure = function(trials)
            path = args.out / f"{function.__name__}.svg"
            path.write_bytes(saved(figure, format="svg", metadata={"Date": None}))
        print(path, flush=True)


if __name__ == "__main__":
    main()
