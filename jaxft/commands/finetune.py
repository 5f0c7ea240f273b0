"""`jaxft finetune`: fine-tune a pretrained network on one's own pictures, and keep the result.

One recipe, two small studies. The first tries its candidates on a part of the training images and judges them on the
rest, several times over where images are few; the second trains the best of them on all training images, with several
seeds. The head is a logistic regression first (LP-FT; Kumar et al. 2022), the rate falls from unit to unit downwards
(Howard & Ruder 2018), statistics of batch norm stay those of pretraining, and every image stands for several fixed
views of itself, so that what lies below the trained units is computed once.
"""

import argparse
import dataclasses
import json
import math
import os
import shlex
import sys
import time
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxft.commands.study import keep_compiled, run_record, study
from jaxft.config import (
    FROZEN,
    Execution,
    Images,
    Source,
    Streams,
    Study,
    Training,
    Trial,
    as_config_file,
    get_at,
    to_dict,
)
from jaxft.core.errors import UserError
from jaxft.core.files import replacing, saying_what_is_wrong
from jaxft.store.records import Store

if TYPE_CHECKING:
    import jax
    import numpy as np

    from jaxft.data import ImageSet
    from jaxft.models import Network
    from jaxft.study.plan import Plan, PlannedTrial
    from jaxft.weights.files import Manifest

HELP = "fine-tune a pretrained network on a folder of pictures, and keep the result"

HELD_OUT = 0.2  # of each class: to test on, where the data have no test part; then to select on
JUDGED = 100  # validation images that a candidate is judged on at least, by several parts of them in turn
MOST_FOLDS = 5
DECAYS = (0.003, 0.01, 0.03)  # of the head alone: of a logistic regression the strength of its L2 term
PROBE_DECAY = 0.01  # of the head before all else
RATES = (0.0003, 0.001)  # of head and body after that: more of it loses what a head fitted to the end begins with
STEPS = 100  # about, of all that trains; six passes at least
RECIPE: dict[str, Any] = {
    "optimizer.name": "adamw",  # chosen, with what else is here, by configs/finetune_recipe.py
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
    "layers.decay": 0.9,
    "batch_norm.statistics": "frozen",
    "augmentation.crop.scale_min": 0.5,
    "augmentation.flip.enabled": True,
    "selection.weights": "last",
    "linear_probe.optimizer": "lbfgs",  # by steps a head ends short of the minimum, and how far is a matter of the rate
    "linear_probe.epochs": 60.0,
}
MOST_MISTAKES = 24
RECORD = "finetune.json"

Train = Literal["auto", "head", "top", "all"]
DEPTHS = typing.get_args(Train)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("--weights", required=True, metavar="FILE", help="pretrained weights, or package:NAME")
    parser.add_argument("--model", metavar="NAME", help="their network; by default what the file says")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="class folders (or a zip of them, or an .npz)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the result; goes on if it has a part")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs that the accuracy is over (3)")
    parser.add_argument(
        "--train",
        choices=DEPTHS,
        default="auto",
        help="the most that is tried: the head, the last stage too, or all; auto: the last stage on a CPU, else all",
    )
    parser.add_argument("--size-px", type=int, metavar="N", help="side of the images; by default the weights' own")
    parser.add_argument(
        "--find-lr",
        action="store_true",
        help="only test which learning rate suits all that is trained, and draw it as OUT/learning_rate.png",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Fine-tunes, and prints what came of it; or tests which learning rate suits."""
    if args.find_lr:
        from jaxft.commands import range_test
        from jaxft.tracking.console import Progress

        task = make_task(args.weights, args.data, args.model, args.size_px, args.train)
        folder = make_folder(Path(args.out))
        keep_compiled()
        with Progress() as progress:
            found = range_test.find_rate(task, folder, progress)
        print(
            f"suggested learning rate: {found.suggested:.2g}, a tenth of that with the least loss; the loss falls "
            f"fastest at {found.steepest:.2g}\npicture: {folder / range_test.PICTURE}"
        )
        return 0
    record = finetune(
        args.weights, args.data, args.out, args.model, args.seeds, args.train, args.size_px, debug=args.debug
    )
    from jaxft.report.finetune import summary_lines

    print("\n".join(summary_lines(record, args.out)))
    return 0


def finetune(
    weights: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: str | None = None,
    seeds: int = 3,
    train: Train = "auto",
    size_px: int | None = None,
    quiet: bool = False,
    debug: bool = False,
) -> dict[str, Any]:
    """Fine-tunes a network on labelled images and returns the record of it, which is in `out` as finetune.json.

    Args:
      weights: a file of pretrained weights, or `package:NAME`.
      data: a folder, zip or .npz of labelled images; a part `test` of it is what the result is tested on, else a
        fifth of each class is held out. Of the rest a fifth is selected on, of few images several fifths in turn,
        then all of it is trained on.
      out: folder for the result: the weights of the first seed in the format that they came in and for Flax, a page,
        a model card, and the two studies, from which the same call goes on where it was stopped.
      model: the network's name, where the file does not say it.
      seeds: how many times the selected candidate is trained; accuracy is over them.
      train: the most that candidates train: 'head', 'top' (the units from the last change of resolution on) or 'all';
        'auto' is 'top' on a CPU, 'all' elsewhere.
      size_px: side of the images; by default what the weights expect.

    Raises:
      UserError: weights, images or the folder cannot be used.
    """
    from jaxft.features.activations import make_feature_cache

    if seeds < 1:
        raise UserError(f"--seeds is {seeds}; it must be 1 or more.")
    if train not in DEPTHS:
        raise UserError(f"--train is {train!r}; allowed: {', '.join(DEPTHS)}.")
    started = time.time()
    task = make_task(str(weights), str(data), model, size_px, train)
    folder = make_folder(Path(out))
    features = make_feature_cache(task.execution)
    selection = task.selection()
    tell(f"{task.model.architecture} on {task.data}: {len(task.images.class_names)} classes", quiet)
    tried, _ = study(as_config_file(selection), folder / "selection", quiet, debug, features)
    candidates = judged(task, tried, Store(folder / "selection"))
    best = max((c for c in candidates if not c["diverged"]), key=rank, default=None)
    if best is None:
        raise RuntimeError(f"every candidate diverged or failed; `jaxft results {folder / 'selection'}` says why")
    best["selected"] = True
    tell(f"selected: {best['name']}, right on {best['val_accuracy']:.1%} of the validation images", quiet)
    refit = as_config_file(task.refit(best["name"], seeds))
    final, failed = study(refit, folder / "refit", quiet, debug, features, show_rates=False)
    if failed:
        raise RuntimeError(f"{failed} of {seeds} final runs failed; `jaxft results {folder / 'refit'}` says why")
    record = described(task, tried, final, Store(folder / "refit"), candidates, best["name"])
    # The trials' own times: a call that goes on where another was stopped has taken part of the whole only.
    spent = {"selection": sum(c["seconds"] for c in candidates), "refit": record.pop("refit_seconds")}
    record["seconds"] = {
        **{part: round(seconds, 1) for part, seconds in spent.items()},
        "total": round(max(time.time() - started, sum(spent.values())), 1),
    }
    words: list[Any] = [
        "jaxft",
        "finetune",
        "--weights",
        weights,
        "--data",
        data,
        "--out",
        out,
        "--seeds",
        seeds,
        "--train",
        train,
    ]
    words += ["--model", model] * (model is not None) + ["--size-px", size_px] * (size_px is not None)
    record["command"] = " ".join(shlex.quote(str(word)) for word in words)
    record["files"] = deliver(Store(folder / "refit").weights_path(final.trials[0].digest), folder, task)
    pictures = add_predictions(record, folder, final.trials[0])
    record = to_dict(record)
    write(folder, record, pictures)
    return record


# --- the task and its two studies -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Task:
    """What is fine-tuned on what, and by which candidates: fields of the section `training`, by name."""

    weights: str
    data: str
    model: "Network"
    manifest: "Manifest"
    images: "ImageSet"
    size_px: int
    folds: int
    candidates: Mapping[str, Mapping[str, Any]]

    @property
    def target(self) -> Images:
        """Returns the images of the second study, which selects nothing."""
        return Images(data=self.data, size_px=self.size_px, test_fraction=HELD_OUT)

    @property
    def execution(self) -> Execution:
        """Returns how the trials run: only the second study's weights are kept."""
        return Execution(keep_weights="none")

    def study(self, title: str, target: Images, names: Sequence[str], streams: Streams, seeds: int) -> Study:
        """Returns the study of the candidates called `names`."""
        return Study(
            title=f"{title}: {self.model.architecture} on {Path(self.data).name}",
            source=Source(model=self.model.architecture, weights=self.weights),
            target=target,
            training=Training.of({**RECIPE, "augmentation.views": self.candidates[names[0]]["augmentation.views"]}),
            streams=streams,
            seeds=tuple(range(seeds)),
            factors=tuple(
                {f"training.{field}": (level,) for field, level in self.candidates[name].items()} for name in names
            ),
            execution=self.execution,
        )

    def selection(self) -> Study:
        """Returns the study that tries every candidate on a part of the training images; its seeds are the folds."""
        target = dataclasses.replace(self.target, val_fraction=HELD_OUT, tested=False)
        streams = Streams(split=0, init=0, order=0, augment=0, fold=None)
        return self.study("Selection", target, tuple(self.candidates), streams, self.folds)

    def refit(self, name: str, seeds: int) -> Study:
        """Returns the study that trains the selected candidate on all training images.

        The split is the same for all seeds; the views, the new head and the order of the images vary.
        """
        target = dataclasses.replace(self.target, train_on_val=True)
        study = self.study("Final runs", target, [name], Streams(split=0), seeds)
        return dataclasses.replace(study, execution=dataclasses.replace(self.execution, keep_weights="all"))

    def name_of(self, trial: Trial) -> str:
        """Returns the candidate that a trial is."""
        return next(
            name
            for name, fields in self.candidates.items()
            if all(get_at(trial.training, field) == level for field, level in fields.items())
        )


def make_task(weights: str, data: str, model: str | None, size_px: int | None, train: Train) -> Task:
    """Returns the task, after looking at the weights and at the images."""
    from jaxft.data import draw_split, load_images
    from jaxft.models import create_model
    from jaxft.weights.files import find_model, read_file

    if size_px is not None and size_px < 1:
        raise UserError(f"--size-px is {size_px}; it must be 1 or more.")
    network = create_model(model or find_model(weights), num_classes=2)
    _, manifest = read_file(weights, network)
    size_px = manifest.preprocessing.size_px if size_px is None else size_px
    images = load_images(Images(data=data), size_px)
    spec = Images(data=data, val_fraction=HELD_OUT, test_fraction=HELD_OUT)
    split = draw_split(images, 0, spec, "--data")
    if not len(split.val) or not len(split.test):
        what = "test" if not len(split.test) else "select"
        raise UserError(f"{data!r} has too few pictures to {what} on; give each class five or more.")
    own_val = images.parts[split.val[0]] == "val"
    folds = 1 if own_val else min(math.ceil(JUDGED / len(split.val)), MOST_FOLDS)
    candidates = make_candidates(network, len(split.train), train)
    return Task(weights, data, network, manifest, images, size_px, folds, candidates)


def make_candidates(model: "Network", num_train: int, train: Train) -> dict[str, dict[str, Any]]:
    """Returns the candidates for `num_train` images: fields of the section `training`, by name.

    Fewer images are passed over more often, and stand for more views.
    """
    import jax

    batch_size = min(32, num_train)
    views = min(max(round(4000 / num_train), 2), 8)
    epochs = float(min(max(round(STEPS * batch_size / num_train), 6), 40))
    common = {"augmentation.views": views, "batches.size": batch_size}
    if train == "auto":
        train = "top" if jax.default_backend() == "cpu" else "all"
    found: dict[str, dict[str, Any]] = {}
    depths = {
        "head": [],
        "top": [("top", below_last_stage(model))],
        "all": [("top", below_last_stage(model)), ("all", [])],
    }
    for depth, frozen in depths[train]:
        rules = ((f"({'|'.join(frozen)})/.*", FROZEN),) if frozen else ()
        for rate in RATES:
            found[f"{depth} at {rate:g}"] = {
                **common,
                "layers.rates": rules,
                "optimizer.learning_rate": rate,
                "schedule.epochs": epochs,
                "linear_probe.weight_decay": PROBE_DECAY,
            }
    for decay in DECAYS:  # last, as the others keep what it asks for on their way
        found[f"head with decay {decay:g}"] = {
            **common,
            "layers.backbone_learning_rate": FROZEN,
            "schedule.epochs": 0.0,
            "linear_probe.weight_decay": decay,
        }
    return found


def below_last_stage(model: "Network") -> list[str]:
    """Returns the units up to the last tap whose maps are larger than the last tap's."""
    strides = [tap.stride_px for tap in model.taps]
    first = strides.index(strides[-1])
    last_below = model.taps[first - 1].unit if first else model.units[0]
    return list(model.units[: model.units.index(last_below) + 1])


def make_folder(folder: Path) -> Path:
    """Returns the folder for the result, made where it is not there; one that holds something else is an error."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{str(folder)!r} is a file; --out names a folder.")
    from jaxft.commands.range_test import PICTURE
    from jaxft.commands.range_test import RECORD as RANGE_RECORD

    other = folder.is_dir() and {path.name for path in folder.iterdir()} - {PICTURE, RANGE_RECORD}
    if other and not (folder / "selection").is_dir():
        raise UserError(f"the folder {str(folder)!r} holds something else; --out names a new or empty one.")
    with saying_what_is_wrong(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


# --- what came of it --------------------------------------------------------------------------------------------


def judged(task: Task, tried: "Plan", store: Store) -> list[dict[str, Any]]:
    """Returns what became of each candidate: its mean accuracy on the parts to validate on, and its mean curves."""
    import numpy as np

    found = []
    for name in task.candidates:
        trials = [trial.digest for trial in tried.trials if task.name_of(trial.trial) == name]
        records = [record for record in (store.read("trials", digest) for digest in trials) if record is not None]
        if len(records) < len(trials):  # one failed, and the study said so
            continue
        arrays = [store.arrays("trials", digest) for digest in trials]
        diverged = any(record["status"] == "diverged" for record in records)
        found.append(
            {
                "name": name,
                "trained": name.partition(" ")[0],
                "learning_rate": task.candidates[name].get("optimizer.learning_rate"),
                "val_accuracy": None if diverged else float(np.mean([record["val_accuracy"] for record in records])),
                "diverged": diverged,
                "seconds": sum(record["seconds"] for record in records),
                "selected": False,
                "curves": {
                    curve: numbers(np.mean([array[curve] for array in arrays], axis=0))
                    for curve in ("epoch", "train_loss", "val_loss", "val_accuracy")
                },
            }
        )
    return found


def rank(candidate: Mapping[str, Any]) -> tuple[float, float]:
    """Returns what the best candidate has most of: accuracy on the validation images, of equals the least loss."""
    return candidate["val_accuracy"], -candidate["curves"]["val_loss"][-1]


def described(
    task: Task, tried: "Plan", final: "Plan", store: Store, candidates: Sequence[Mapping[str, Any]], selected: str
) -> dict[str, Any]:
    """Returns the record of it all but for the files, the times and the predictions."""
    from jaxft.analysis.statistics import mean_interval

    first = final.trials[0]
    records = [store.read("trials", trial.digest) or {} for trial in final.trials]
    diverged = [trial.trial.seed for trial, record in zip(final.trials, records) if record["status"] == "diverged"]
    if diverged:
        raise FloatingPointError(f"training on all images diverged with seed {diverged[0]}")
    interval = mean_interval([record["test_accuracy"] for record in records])
    tested = set(task.images.parts[first.split.test])
    own = {"test": "the data's own test part", "val": "the data's validation part"}
    run = run_record(as_config_file(final.study))
    return {
        "model": task.model.architecture,
        "weights": {"file": task.manifest.file, "sha256": task.manifest.sha256, "origin": task.manifest.origin},
        "data": {
            "path": task.data,
            "class_names": list(task.images.class_names),
            "train": len(tried.trials[0].split.train),
            "val": len(tried.trials[0].split.val),
            "folds": task.folds,
            "test": len(first.split.test),
            "size_px": task.size_px,
            "test_from": own[tested.pop()] if tested <= set(own) else "a fifth of each class, held out",
            "train_per_class": counts(task.images, first.split.train),
            "test_per_class": counts(task.images, first.split.test),
            "split": first.split.digest,
        },
        "candidates": list(candidates),
        "selected": selected,
        "recipe": {**RECIPE, **to_dict(dict(task.candidates[selected]))},
        "seeds": [trial.trial.seed for trial in final.trials],
        "delivered_seed": first.trial.seed,
        "layout": task.model.layout,
        "preprocessing": dataclasses.asdict(first.program.phases[-1].preprocessing),
        "test": {
            "accuracy": [record["test_accuracy"] for record in records],
            "mean": interval.mean,
            "half_width": None if math.isnan(interval.half_width) else interval.half_width,
        },
        "refit_curves": [
            {
                "seed": trial.trial.seed,
                **{
                    curve: numbers(store.arrays("trials", trial.digest)[curve])
                    for curve in ("epoch", "train_loss", "train_accuracy")
                },
            }
            for trial in final.trials
        ],
        "warnings": [*final.warnings, *rough(tried, final, task)],
        "versions": run["versions"],
        "device": run["device"],
        "refit_seconds": sum(record["seconds"] for record in records),
    }


def rough(tried: "Plan", final: "Plan", task: Task) -> list[str]:
    """Returns a warning where there are too few images to judge by."""
    val, test = tried.trials[0].split.val, final.trials[0].split.test
    untested = [name for name, count in zip(task.images.class_names, counts(task.images, test)) if not count]
    none = (
        f"no image of {', '.join(untested[:5])}{' and others' * (len(untested) > 5)} is tested on: too few are there."
    )
    return [none] * bool(untested) + [
        f"there are {number} images to {what} on, so one of them counts {1 / number:.1%}; more would say more."
        for what, number in (("select", task.folds * len(val)), ("test", len(test)))
        if number < 50
    ]


def deliver(weights: Path, folder: Path, task: Task) -> list[str]:
    """Writes the weights to `folder` in the format that the pretrained ones came in, and for Flax; returns names."""
    from jaxft.weights.files import SUFFIXES, convert_weights

    own = Path(task.manifest.file).suffix
    form = task.manifest.format
    suffix = f".{form}" if form in ("safetensors", "msgpack") else own if own in SUFFIXES else ".pth"
    names = list(dict.fromkeys([f"weights{suffix}", "weights.msgpack"]))
    for name in names:
        convert_weights(weights, folder / name)
    return names


def add_predictions(record: dict[str, Any], folder: Path, trial: "PlannedTrial") -> dict[str, "np.ndarray"]:
    """Adds what the delivered network says of the test images to the record; returns the pictures of its mistakes."""
    import numpy as np

    from jaxft.core.metrics import mean_per_class

    rows, labels = trial.split.test, trial.images.labels[trial.split.test]
    shares = probabilities(folder / record["files"][0], trial.images.images, rows)
    predicted = shares.argmax(1)
    names = trial.images.class_names
    confusion = np.zeros((len(names), len(names)), int)
    np.add.at(confusion, (labels, predicted), 1)
    record["confusion"] = confusion.tolist()
    record["test"]["mean_per_class"] = mean_per_class(labels, predicted)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-shares[wrong, predicted[wrong]], kind="stable")][:MOST_MISTAKES]
    record["mistakes"] = [
        {
            "id": trial.images.ids[rows[i]],
            "label": names[labels[i]],
            "predicted": names[predicted[i]],
            "probability": float(shares[i, predicted[i]]),
            "label_probability": float(shares[i, labels[i]]),
        }
        for i in worst
    ]
    return {trial.images.ids[rows[i]]: np.asarray(trial.images.images[rows[i]]) for i in worst}


def probabilities(weights: Path, images: "np.ndarray", rows: "np.ndarray") -> "np.ndarray":
    """Returns [rows, classes]: what the network in a file says of images, which have the size that it expects."""
    import jax
    import numpy as np

    from jaxft.data.batches import padded_batches
    from jaxft.weights.files import read_network

    model, variables, manifest = read_network(weights)
    variables = {name: variables[name] for name in ("params", "batch_stats") if name in variables}

    @jax.jit
    def classify(variables: Any, batch: "jax.Array") -> "jax.Array":
        return jax.nn.softmax(model.apply(variables, manifest.preprocessing.apply(batch)))

    batches, _ = padded_batches(rows, 32)
    return np.concatenate([np.asarray(classify(variables, images[batch])) for batch in batches])[: len(rows)]


def write(folder: Path, record: Mapping[str, Any], pictures: Mapping[str, "np.ndarray"]) -> None:
    """Writes the record, the page and the model card."""
    from jaxft.report.finetune import CARD, PAGE, model_card, write_finetune_page

    texts = {RECORD: json.dumps(record, indent=1, allow_nan=False), CARD: model_card(record)}
    for name, text in texts.items():
        with saying_what_is_wrong(folder / name), replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_finetune_page(folder / PAGE, record, pictures)


def counts(images: "ImageSet", rows: "np.ndarray") -> list[int]:
    """Returns how many of the images in `rows` each class has."""
    import numpy as np

    return np.bincount(images.labels[rows], minlength=len(images.class_names)).tolist()


def numbers(values: "np.ndarray") -> list[float | None]:
    """Returns numbers that JSON can hold: none for nan and infinity."""
    return [float(value) if math.isfinite(value) else None for value in values]


def tell(line: str, quiet: bool) -> None:
    """Says a line on standard error."""
    if not quiet:
        print(line, file=sys.stderr, flush=True)
