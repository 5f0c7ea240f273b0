"""`jaxft soup`: averages of a study's networks, and the line from each back to the network it started from."""

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxft.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from jaxft.store.records import Store
    from jaxft.study.plan import Plan, PlannedTrial
    from jaxft.study.run import Work

HELP = "average a finished study's networks (soups), and interpolate with what they started from (WiSE-FT)"
HEADS = ("start", "final")
COLLECTIONS = ("params", "batch_stats")
Part = Literal["val", "test"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("workdir", metavar="DIR", help="work directory of a finished study that kept its weights")
    parser.add_argument("--over", nargs="*", default=[], metavar="FACTOR", help="average over its levels and the seeds")
    parser.add_argument("--alphas", type=int, default=11, metavar="N", help="points on the line (default: 11)")
    parser.add_argument(
        "--head", choices=HEADS, default="start", help="the head at the line's start: as it started, or as it ended"
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Makes soups and lines, prints them, and draws the lines."""
    found = make_soups(args.workdir, args.over, args.alphas, args.head)
    print_soups(args.workdir, found)
    return 0


@dataclass(frozen=True)
class Soups:
    """What became of averages of networks.

    Attributes:
      soups: a row for each set of networks of one start and split. `networks` says how many it has, `in_greedy` how
        many of them the greedy soup took; `single`, `uniform` and `greedy` are the network that is best on validation,
        the average of all, and of those. `val_...` and `test_...` are accuracies in [0, 1], `mean_...` of all networks.
      lines: a row for each network and point: `trial`, `setting`, `seed`, `alpha` (0: its start, 1: itself),
        `val_accuracy`; `test_accuracy` is missing but at the `alpha` chosen on validation, and at 1.
      notes: what was left out, and why, as sentences.
    """

    soups: "pd.DataFrame"
    lines: "pd.DataFrame"
    notes: tuple[str, ...] = ()


def make_soups(
    workdir: str | os.PathLike[str],
    over: Sequence[str] = (),
    num_alphas: int = 11,
    head: str = "start",
    quiet: bool = False,
) -> Soups:
    """Returns soups of a finished study's networks, and accuracy along the line from each to what it started from.

    Soups are of networks that agree in all factors but those of `over`, with all their seeds: the average of all, and
    the greedy one (Wortsman et al. 2022a). They must have started from the same weights and have the same split, so the
    study pins it (`streams.split`). Lines (WiSE-FT, Wortsman et al. 2022b) have `num_alphas` points; on validation the
    best is chosen, of equals the one nearest to the fine-tuned network, and tested. Test images are read once for each
    soup and line: what is found is kept in the work directory, which a second call reads.

    The head takes part as it started (`head` 'start'): drawn at random it is of no use at the line's start, which
    is for a start with a head. With 'final' it is the fine-tuned one all along, and the line is the body's.
    Batch-norm statistics that were tracked in training are taken anew from the training images
    (`jaxft.analysis.averaging`).

    Raises:
      UserError: there is no finished study, it kept no weights, or nothing in it can be averaged.
    """
    from jaxft.commands.study import keep_compiled
    from jaxft.config import Study, from_dict
    from jaxft.features.activations import make_feature_cache
    from jaxft.ops import convolution
    from jaxft.store.records import Store
    from jaxft.study.plan import make_plan
    from jaxft.study.run import Work, check_convolution
    from jaxft.tracking.console import Progress

    if head not in HEADS:
        raise UserError(f"head is {head!r}; allowed: {' or '.join(map(repr, HEADS))}.")
    if num_alphas < 2:
        raise UserError(f"alphas is {num_alphas}; a line has two points or more.")
    store = Store.open(workdir)
    study = from_dict(Study, store.plan()["config"])
    for name in over:
        if name not in study.factor_names():
            raise UserError(
                f"{name!r} is no factor of this study{did_you_mean(name, study.factor_names())}; "
                f"it has {', '.join(study.factor_names()) or 'none'}."
            )
    keep_compiled()
    with Progress(quiet) as progress:
        plan = make_plan(study, progress.note)
        work = Work(plan, store, progress, False, make_feature_cache(study.execution))
        with convolution.use(study.execution.cpu_convolution):
            check_convolution(store)
            return _make(work, tuple(over), num_alphas, head)


def _make(work: "Work", over: tuple[str, ...], num_alphas: int, head: str) -> Soups:
    import numpy as np
    import pandas as pd

    trials = _kept(work.plan, work.store)
    if not trials:
        raise UserError(
            f"{str(work.store.workdir)!r} has no final weights of a trained network; finish the study with "
            "'execution.keep_weights' \"all\"."
        )
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for levels, members in _sets(work.plan, trials, over):
        reason = _why_not(members)
        if reason:
            notes.append(f"no soup of {_named(levels)}: {reason}.")
        else:
            rows.append(levels | _soup(work, members))
    lines = [row for trial in trials for row in _line(work, trial, np.linspace(0, 1, num_alphas), head)]
    return Soups(pd.DataFrame(rows), pd.DataFrame(lines), tuple(dict.fromkeys(notes)))


def _kept(plan: "Plan", store: "Store") -> "list[PlannedTrial]":
    """Returns the trials that are done and whose final weights are there."""
    found = []
    for trial in plan.trials:
        record = store.read("trials", trial.digest)
        if record is not None and record["status"] == "done" and store.weights_path(trial.digest).is_file():
            found.append(trial)
    return found


def _sets(
    plan: "Plan", trials: "Sequence[PlannedTrial]", over: Sequence[str]
) -> "list[tuple[dict[str, Any], list[PlannedTrial]]]":
    """Returns the trials that agree in the levels of all other factors, with these levels."""
    found: dict[str, tuple[dict[str, Any], list[PlannedTrial]]] = {}
    for trial in trials:
        levels = {name: level for name, level in plan.levels(trial.trial).items() if name not in over}
        found.setdefault(repr(levels), (levels, []))[1].append(trial)
    return list(found.values())


def _why_not(members: "Sequence[PlannedTrial]") -> str:
    """Returns why networks cannot be averaged, or an empty string."""
    if len(members) < 2:
        return "it is one network"
    if len({(trial.model, trial.size_px) for trial in members}) > 1:
        return "they are of several architectures"
    if len({trial.base(trial.body) for trial in members}) > 1:
        return "they start from different weights, whose average is of no use"
    if len({trial.split.digest for trial in members}) > 1:
        return "each has its own split, so one may be tested on what another was trained on; pin it: streams.split 0"
    if len({(trial.images.fingerprint, trial.program.test_crops) for trial in members}) > 1:
        return "they see other pictures, or the same otherwise"
    if len({trial.program.phases[-1].tracked for trial in members}) > 1:
        return "some tracked batch-norm statistics that others froze"
    if not len(members[0].split.val):
        return "there are no images to select on"
    return ""


def _named(levels: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {level}" for name, level in levels.items()) or "the study"


# --- networks and their accuracy --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scorer:
    """Evaluates whole flat weights as a trial's own are evaluated."""

    work: "Work"
    planned: "PlannedTrial"
    lane: Any

    @classmethod
    def of(cls, work: "Work", planned: "PlannedTrial") -> "Scorer":
        """Returns that of a trial."""
        return cls(work, planned, work.lane(planned))

    def recalibrated(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> dict[str, Any]:
        """Returns `batch_stats` with those that the trial tracked taken anew from its training images."""
        import numpy as np

        from jaxft.study.loop import recalibrate

        if not self.planned.program.phases[-1].tracked:
            return dict(batch_stats)
        feed, executor, own, tracked = self._reads(params, batch_stats)
        anew = recalibrate(feed, executor, own, tracked, [self.lane])
        return dict(batch_stats) | {name: np.asarray(leaf)[0] for name, leaf in anew.items()}

    def accuracy(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any], part: Part) -> float:
        """Returns the accuracy on the trial's images of a part, 'val' or 'test'; nan for none."""
        from jaxft.study.loop import evaluate

        feed, executor, own, tracked = self._reads(params, batch_stats)
        scores = evaluate(self.planned.program, feed, executor, own, tracked, [self.lane], part)
        return float(scores.accuracy[0])

    def _reads(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> "tuple[Any, Any, Any, Any]":
        """Returns (feed, executor, parameters, tracked statistics) of an evaluation; the feed has the parameters."""
        import jax.numpy as jnp

        from jaxft.study.executors import Executor
        from jaxft.study.loop import Feed, stack
        from jaxft.training.state import Frozen

        executor, phase = Executor(), self.planned.program.phases[-1]
        tracked = {name: batch_stats[name] for name in phase.tracked}
        resting = {name: leaf for name, leaf in batch_stats.items() if name not in tracked}
        frozen = executor.place_shared(Frozen(dict(params), resting))
        labels, no_batches = jnp.asarray(self.lane.labels[None]), jnp.zeros((1, 1, 1), jnp.int32)
        feed = Feed(phase, frozen, self.work.images_of(self.planned), labels, no_batches)
        return feed, executor, {}, executor.place(stack([tracked]))


def _final(work: "Work", trial: "PlannedTrial") -> "tuple[dict[str, Any], dict[str, Any]]":
    """Returns a trial's final parameters and statistics, whole and flat."""
    from jaxft.weights.files import load_flat

    flat, _ = load_flat(work.store.weights_path(trial.digest), trial.model)
    parts = [{n.partition("/")[2]: leaf for n, leaf in flat.items() if n.startswith(f"{c}/")} for c in COLLECTIONS]
    return parts[0], parts[1]


def _kept_analysis(work: "Work", identity: Mapping[str, Any], make: Any) -> dict[str, Any]:
    """Returns an analysis that is kept, or makes it and keeps it."""
    from jaxft.config import digest

    name = digest(identity)
    found = work.store.read("analyses", name)
    if found is None:
        found = dict(identity) | make()
        work.store.write("analyses", name, found, {})
    return found


def _soup(work: "Work", members: "Sequence[PlannedTrial]") -> dict[str, Any]:
    """Returns a row about the soups of some networks."""
    from jaxft.analysis.averaging import average, greedy_soup

    digests = [trial.digest for trial in members]

    def make() -> dict[str, Any]:
        work.progress.note(f"soup of {len(members)} networks")
        scorer, finals = Scorer.of(work, members[0]), [_final(work, trial) for trial in members]
        records = [work.store.read("trials", digest) or {} for digest in digests]

        def mixed(chosen: Sequence[int]) -> tuple[dict[str, Any], dict[str, Any]]:
            params, stats = (average([finals[i][part] for i in chosen]) for part in (0, 1))
            return params, scorer.recalibrated(params, stats)

        alone = [record["val_accuracy"] for record in records]
        chosen, score = greedy_soup(alone, lambda some: scorer.accuracy(*mixed(some), "val"))
        best, everyone = chosen[0], tuple(range(len(members)))
        uniform = mixed(everyone)
        is_single = len(chosen) == 1
        return {
            "networks": len(members),
            "in_greedy": len(chosen),
            "mean_val_accuracy": sum(alone) / len(alone),
            "val_single": alone[best],
            "val_uniform": scorer.accuracy(*uniform, "val"),
            "val_greedy": score,
            "mean_test_accuracy": _mean([record["test_accuracy"] for record in records]),
            "test_single": records[best]["test_accuracy"],
            "test_uniform": _number(scorer.accuracy(*uniform, "test")),
            "test_greedy": records[best]["test_accuracy"]
            if is_single
            else _number(scorer.accuracy(*mixed(chosen), "test")),
        }

    identity = {"analysis": "soup", "trials": digests}
    found = _kept_analysis(work, identity, make)
    return {name: value for name, value in found.items() if name not in identity}


def _line(work: "Work", trial: "PlannedTrial", alphas: "np.ndarray", head: str) -> list[dict[str, Any]]:
    """Returns a row for each point of the line from a trial's start to its end."""
    from jaxft.analysis.averaging import interpolate

    record = work.store.read("trials", trial.digest) or {}

    def make() -> dict[str, Any]:
        scorer, (final, final_stats) = Scorer.of(work, trial), _final(work, trial)
        start, start_stats = scorer.lane.params, scorer.lane.batch_stats
        if head == "final":
            own = trial.model.units[-1] + "/"
            start = {name: final[name] if name.startswith(own) else leaf for name, leaf in start.items()}

        def at(alpha: float) -> tuple[dict[str, Any], dict[str, Any]]:
            if alpha == 1:
                return final, final_stats
            params = interpolate(start, final, alpha)
            return params, scorer.recalibrated(params, interpolate(start_stats, final_stats, alpha))

        val = []
        for i, alpha in enumerate(alphas):
            work.progress.note(f"line of trial {trial.digest}: {i + 1} of {len(alphas)} points")
            val.append(_number(scorer.accuracy(*at(float(alpha)), "val")))
        known = [(value, alpha) for value, alpha in zip(val, alphas.tolist()) if value is not None]
        chosen = max(known)[1] if known else None
        tested = None
        if chosen is not None:
            is_end = chosen == 1
            tested = record["test_accuracy"] if is_end else _number(scorer.accuracy(*at(chosen), "test"))
        return {"val_accuracy": val, "alpha": chosen, "test_accuracy": tested}

    identity = {"analysis": "line", "trials": [trial.digest], "alphas": alphas.tolist(), "head": head}
    found = _kept_analysis(work, identity, make)
    setting = [list(levels.items()) for levels in work.plan.settings].index(list(work.plan.levels(trial.trial).items()))
    place = {"trial": trial.digest, "setting": setting, "seed": trial.trial.seed}
    rows = []
    for alpha, val in zip(alphas.tolist(), found["val_accuracy"]):
        tested = found["test_accuracy"] if alpha == found["alpha"] else None
        tested = record["test_accuracy"] if alpha == 1 else tested
        is_chosen = alpha == found["alpha"]
        rows.append({**place, "alpha": alpha, "chosen": is_chosen, "val_accuracy": val, "test_accuracy": tested})
    return rows


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


# --- what is shown ----------------------------------------------------------------------------------------------


def print_soups(workdir: str | os.PathLike[str], found: Soups) -> None:
    """Prints a table of soups and one of lines, and draws the lines to `soup.png` in the work directory."""
    from jaxft.commands.results import interval, level_texts, percent, print_table
    from jaxft.store.records import Store

    store = Store.open(os.fspath(workdir))
    plan = store.plan()
    for note in found.notes:
        print(note)
    shown = found.soups.astype({name: "float64" for name in found.soups.columns if name.startswith(("val", "test"))})
    if len(shown):
        names = [name for name in plan["factors"] if name in shown]
        kinds = ("single", "uniform", "greedy")
        header = [*names, "networks", *(f"{kind} {part} %" for kind in kinds for part in ("val", "test"))]
        rows = [
            [
                *(str(row[name]) for name in names),
                f"{row['in_greedy']} of {row['networks']}",
                *(percent(row[f"{part}_{kind}"]) for kind in kinds for part in ("val", "test")),
            ]
            for _, row in shown.iterrows()
        ]
        print_table(header, rows, len(names))
        print("single: the best on validation. uniform: the average of all. greedy: of so many of them.")
    levels, rows = level_texts(plan), []
    lines = found.lines.astype({"val_accuracy": "float64", "test_accuracy": "float64"})
    for setting in sorted(lines["setting"].unique().tolist()):
        of_setting = lines[lines["setting"] == setting]
        chosen, end = of_setting[of_setting["chosen"]], of_setting[of_setting["alpha"] == 1]
        alphas = ", ".join(f"{alpha:.3g} ({count})" for alpha, count in chosen["alpha"].value_counts().items())
        tested = [interval(mean_interval_of(part["test_accuracy"])) for part in (chosen, end)]
        rows.append([*levels[setting], alphas or "–", percent(chosen["val_accuracy"].mean()), *tested])
    header = [*plan["factors"], "alpha (seeds)", "val %", "test %", "test %, alpha 1"]
    print_table(header, rows, len(plan["factors"]) + 1)
    print("alpha: 0 is what a network started from, 1 the network itself; chosen on validation by each seed.")
    print("test: mean and 95% interval over seeds.")
    path = draw_lines(store, plan, found.lines)
    print(f"\nlines: {path}")


def mean_interval_of(values: "pd.Series") -> Any:
    """Returns the mean of accuracies and its interval over seeds."""
    from jaxft.analysis.statistics import mean_interval

    return mean_interval(values.to_numpy())


def draw_lines(store: "Store", plan: Mapping[str, Any], lines: "pd.DataFrame") -> Path:
    """Draws validation accuracy along the lines, a curve a setting, to `soup.png`, and returns its path."""
    import numpy as np
    from matplotlib.figure import Figure

    from jaxft.commands.results import level_texts
    from jaxft.core.files import replacing, saying_what_is_wrong
    from jaxft.report.figures import setting_colours, style

    colours, levels = setting_colours(plan["factors"], plan["settings"]), level_texts(plan)
    path = store.workdir / "soup.png"
    with style():
        figure = Figure(figsize=(6.4, 3.8), layout="constrained", facecolor="white", dpi=150)
        axes = figure.subplots()
        known = lines.astype({"val_accuracy": "float64"})
        for number in sorted(known["setting"].unique().tolist()):
            by_alpha = known[known["setting"] == number].groupby("alpha")["val_accuracy"]
            found = [mean_interval_of(values) for _, values in by_alpha]
            alphas, mean = np.array(list(by_alpha.groups)), 100 * np.array([each.mean for each in found])
            half = 100 * np.nan_to_num([each.half_width for each in found])
            axes.fill_between(alphas, mean - half, mean + half, color=colours[number], alpha=0.15, linewidth=0)
            label = " · ".join(levels[number])
            axes.plot(alphas, mean, color=colours[number], marker="o", markersize=3, linewidth=1.6, label=label)
        axes.set_xlabel("alpha: 0 the start, 1 the fine-tuned network")
        axes.set_ylabel("validation accuracy, %")
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -2), min(high, 102))
        if plan["factors"]:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        with saying_what_is_wrong(store.workdir), replacing(path) as temporary:
            figure.savefig(temporary, format="png")
    return path
