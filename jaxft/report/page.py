"""The report as one HTML file: what the store holds, worked out in Python and laid out by `page.html`."""

import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from jaxft.analysis.statistics import Interval, mean_interval
from jaxft.config import Study, to_dict
from jaxft.config.labels import label
from jaxft.core.files import replacing, saying_what_is_wrong
from jaxft.report import figures
from jaxft.report.figures import Arm, Curve, Setting
from jaxft.report.selection import MOST_IN_PAIRS, arms_of, contrasts_of, select_over, selected_text
from jaxft.report.template import as_text, duration, percent, render_template
from jaxft.store.records import Store

STATUSES = ("done", "diverged", "failed")


def write_page(store: Store) -> Path:
    """Writes `report.html` into the work directory and returns its path."""
    path = store.workdir / "report.html"
    page = render(store)
    with saying_what_is_wrong(store.workdir), replacing(path) as temporary:
        temporary.write_bytes(page.encode())
    return path


def render(store: Store) -> str:
    """Returns the whole page as text."""
    plan, results = store.plan(), store.results()
    settings = summarise(plan, results)
    best = chosen_setting(settings)
    varying = [name for name in plan["factors"] if len(figures.levels_of(name, settings)) > 1]
    return render_template(
        "page.html",
        plan=plan,
        paragraphs=paragraphs(plan.get("docstring") or ""),
        counts=counts(plan, results),
        num_seeds=len({trial["seed"] for trial in plan["trials"]}),
        varied=plan.get("varied") or [],
        settings=settings,
        best=best,
        tested=any(s.test.num_values for s in settings),
        uneven=plan.get("uneven", False),
        factors=varying,
        named_by=" · ".join(label(name) for name in varying),
        labels={name: figures.level_labels(figures.levels_of(name, settings)) for name in varying},
        key=figures.level_key,
        scale=scale_of([s.test for s in settings]),
        label=label,
        arms=arm_section(plan, arms_of(store, plan, results)),
        factor_figures=factor_figures(plan, settings, varying),
        done_seeds=seeds_text(s.done for s in settings) if counts(plan, results)["done"] else "",
        curves=curve_figures(store, plan, results, settings, best),
        change=change_figure(store, plan, results, settings),
        distance=distance_figure(store, plan, settings),
        trials=trial_rows(plan, results),
        runs=[run_record(run) for run in reversed(store.runs())],
        commands=commands(store.runs()),
        sources=sources_of(store, plan),
        failures=failures(store, results),
        changed=changed_fields(plan["config"]),
        config=json.dumps(plan["config"], indent=2, ensure_ascii=False),
    )


# --- numbers ------------------------------------------------------------------------------------------------


def summarise(plan: Mapping[str, Any], results: pd.DataFrame) -> list[Setting]:
    """Returns each setting with its counts and the intervals over its trials that are done."""
    labels = figures.setting_labels(plan["factors"], plan["settings"])
    colours = figures.setting_colours(plan["factors"], plan["settings"])
    settings = []
    for i, factors in enumerate(plan["settings"]):
        rows = results[results["setting"] == i]
        done = rows[rows["status"] == "done"]
        tested = done.dropna(subset="test_accuracy")
        settings.append(
            Setting(
                number=i,
                factors=factors,
                label=labels[i],
                colour=colours[i],
                planned=sum(trial["setting"] == i for trial in plan["trials"]),
                done=len(done),
                diverged=int((rows["status"] == "diverged").sum()),
                test_by_seed=dict(zip(tested["seed"], tested["test_accuracy"])),
                val=mean_interval(done["val_accuracy"].to_numpy()),
                test=mean_interval(done["test_accuracy"].to_numpy()),
                per_class=mean_interval(done["test_mean_per_class"].to_numpy()),
                change=mean_interval(done["relative_change"].to_numpy()),
            )
        )
    return settings


def chosen_setting(settings: Sequence[Setting]) -> Setting | None:
    """Returns the setting with the highest mean validation accuracy (the first of equals), if any has one."""
    return max((s for s in settings if s.val.num_values), key=lambda s: s.val.mean, default=None)


def counts(plan: Mapping[str, Any], results: pd.DataFrame) -> dict[str, int]:
    """Returns how many trials are planned, finished (done or diverged), waiting, and of each status."""
    found = {status: int((results["status"] == status).sum()) for status in STATUSES}
    planned, finished = len(plan["trials"]), found["done"] + found["diverged"]
    return {"planned": planned, "finished": finished, "waiting": planned - len(results), **found}


def scale_of(intervals: Sequence[Interval]) -> tuple[float, float]:
    """Returns the ends of an axis that holds all intervals, as far as they are possible accuracies."""
    known = [v for v in intervals if v.num_values]
    halves = [0.0 if math.isnan(v.half_width) else v.half_width for v in known]
    low = min((v.mean - half for v, half in zip(known, halves)), default=0.0)
    high = max((v.mean + half for v, half in zip(known, halves)), default=1.0)
    margin = 0.03 * (high - low) or 0.01
    return max(low - margin, 0.0), min(high + margin, 1.0)


def mean_curve(epoch: np.ndarray, curves: Sequence[np.ndarray]) -> Curve:
    """Returns the mean of `curves`, [epochs] each, with its interval by epoch, over what is finite."""
    length = min(len(epoch), *(len(curve) for curve in curves))
    stacked = np.stack([curve[:length] for curve in curves]).astype(np.float64)
    stacked[~np.isfinite(stacked)] = math.nan
    intervals = [mean_interval(column) for column in stacked.T]
    mean, half_width = (np.array([getattr(v, name) for v in intervals]) for name in ("mean", "half_width"))
    return Curve(epoch[:length], mean, half_width)


# --- figures and their captions -----------------------------------------------------------------------------


def arm_section(plan: Mapping[str, Any], arms: Sequence[Arm]) -> dict[str, Any] | None:
    """Returns what the page says of the arms and of the differences between them; None where there are no arms."""
    if not arms:
        return None
    over = select_over(plan)
    some = any(arm.selected for arm in arms)
    return {
        "over": over,
        "named_by": [name for name in plan["factors"] if name not in over],
        "rows": [(arm, selected_text(arm, over, arms)) for arm in arms],
        "svg": figures.accuracy_by_arm("arms", arms, plan.get("chance")) if some else None,
        "contrasts": contrasts_of(arms),
        "with_first": len(arms) > MOST_IN_PAIRS,
        "seeds": seeds_text(arm.test.num_values for arm in arms),
    }


def factor_figures(
    plan: Mapping[str, Any], settings: Sequence[Setting], varying: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns a picture for each factor with more than one level: test accuracy against its levels."""
    found = []
    if any(s.test.num_values for s in settings):
        for i, factor in enumerate(varying):
            lines, words = figures.factor_lines(factor, varying, settings)
            found.append(
                {
                    "factor": factor,
                    "svg": figures.accuracy_by_factor(f"factor{i}", factor, varying, settings, plan.get("chance")),
                    "note": figures.place_levels(figures.levels_of(factor, settings)).note,
                    "lines": words,
                    "seeds": seeds_text(value.num_values for line in lines for _, value, _ in line.points),
                }
            )
    return found


def curve_figures(
    store: Store,
    plan: Mapping[str, Any],
    results: pd.DataFrame,
    settings: Sequence[Setting],
    best: Setting | None,
) -> list[tuple[Setting, Markup]]:
    """Returns the learning curves of each setting, but for those without epochs; none where no trial is done."""
    curves = {}
    for setting in settings:
        done = results[(results["setting"] == setting.number) & (results["status"] == "done")]
        arrays = [store.arrays("trials", digest) for digest in done["trial"]]
        if arrays and not len(arrays[0]["epoch"]):
            settings = [other for other in settings if other is not setting]
        elif arrays:
            epoch = arrays[0]["epoch"]
            accuracy, loss = ([a[name] for a in arrays] for name in ("val_accuracy", "train_loss"))
            curves[setting.number] = mean_curve(epoch, accuracy), mean_curve(epoch, loss)
    if not curves:
        return []
    chosen = None if best is None else best.number
    return list(zip(settings, figures.learning_curves("curve", settings, curves, chosen, plan.get("chance"))))


def change_figure(
    store: Store, plan: Mapping[str, Any], results: pd.DataFrame, settings: Sequence[Setting]
) -> Markup | None:
    """Returns the map of relative change by layer and setting; None where no change was measured."""
    changes = store.changes()
    if changes.empty:
        return None
    done = changes[changes["trial"].isin(results.loc[results["status"] == "done", "trial"])]
    measured = done.assign(relative_l2=pd.to_numeric(done["relative_l2"]))
    table = measured.pivot_table(index="layer", columns="setting", values="relative_l2", aggfunc="mean")
    layers = [layer for layer in plan["layers"] if layer in table.index]
    if not layers:
        return None
    values = table.reindex(index=layers, columns=[s.number for s in settings]).to_numpy(dtype=np.float64)
    return figures.change_map("change", settings, layers, values)


def distance_figure(store: Store, plan: Mapping[str, Any], settings: Sequence[Setting]) -> dict[str, Any] | None:
    """Returns the map of distances between runs over the body, in order; None where none was measured."""
    pairwise = store.pairwise()
    if pairwise is None:
        return None
    place = {trial["trial"]: (trial["setting"], trial["seed"]) for trial in plan["trials"]}
    order = sorted(range(len(pairwise["trials"])), key=lambda i: place[pairwise["trials"][i]])
    body = [not layer.startswith("head") for layer in pairwise["layers"]]
    squares = np.square(pairwise["distances"][body].astype(np.float64))
    distances = np.sqrt(squares.sum(axis=0))[np.ix_(order, order)]
    owners = [place[pairwise["trials"][i]][0] for i in order]
    return {"svg": figures.distance_map("distance", settings, owners, distances), "runs": len(order)}


def seeds_text(counts: Iterable[int]) -> str:
    """Returns over how many seeds means are, such as '4 to 5 seeds', from the number of each mean."""
    numbers = sorted(set(counts) - {0})
    many = " to ".join(dict.fromkeys(str(number) for number in (numbers[0], numbers[-1]))) if numbers else "no"
    return f"{many} seed{'' if numbers == [1] else 's'}"


# --- rows and records ---------------------------------------------------------------------------------------


def trial_rows(plan: Mapping[str, Any], results: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns a row for each trial of the plan, those that have not run among them."""
    found = dict(zip(results["trial"], results.to_dict("records")))
    return [
        {
            "status": "not yet run",
            **trial,
            **{k: v for k, v in found.get(trial["trial"], {}).items() if k not in trial},
        }
        for trial in plan["trials"]
    ]


def run_record(run: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a run for the page: when it began, and its other fields as (name, text)."""
    fields = [(name, value) for name, value in run.items() if name not in ("started", "command")]
    return {"started": run.get("started"), "command": command_text(run.get("command")), "fields": fields}


def commands(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the commands that made the study, each once, the oldest first."""
    return list(dict.fromkeys(command_text(run["command"]) for run in runs if run.get("command")))


def command_text(command: Any) -> str:
    """Returns a command as one would type it."""
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command or "")


def changed_fields(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (dotted field, value) for the fields that differ from their defaults."""
    usual = flattened(to_dict(Study()))
    changed = {n: value for n, value in flattened(config).items() if n not in usual or usual[n] != value}
    return [(n, factors_text(value) if n == "factors" else as_text(value)) for n, value in changed.items()]


def factors_text(blocks: Sequence[Mapping[str, Sequence[Any]]]) -> str:
    """Returns a line for each product block, such as 'training.initialization.start: random × "
    "training.schedule.epochs: 5, 10'."""
    return "\n".join(
        " × ".join(f"{name}: {', '.join(map(as_text, levels))}" for name, levels in block.items()) for block in blocks
    )


def flattened(fields: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Returns nested dicts as one, under dotted names."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        dotted = f"{where}.{name}" if where else str(name)
        found |= flattened(value, dotted) if isinstance(value, Mapping) else {dotted: value}
    return found


def paragraphs(text: str) -> list[tuple[str, bool]]:
    """Returns the paragraphs of a docstring, unwrapped, and of each whether it goes on with the one above.

    A line that begins with a bullet, a number or a label such as 'Expected:' is a paragraph of its own.
    """
    found = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = re.split(r"\n(?=\s*(?:[-*•] |\d+\. |[A-Z][\w ]{0,24}:(?:\s|$)))", block)
        found += [(" ".join(line.split()), i > 0) for i, line in enumerate(lines)]
    return [(line, goes_on) for line, goes_on in found if line]


def failures(store: Store, results: pd.DataFrame) -> list[tuple[str, int]]:
    """Returns why trials failed: each first line of an error, and how many trials it stopped."""
    records = [store.read("failures", digest) for digest in results.loc[results["status"] == "failed", "trial"]]
    reasons = [str((record or {}).get("error") or "no reason on record").split("\n")[0] for record in records]
    return list(Counter(reasons).items())


def sources_of(store: Store, plan: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Returns the source networks that were trained here: (digest, what came of it as (name, text))."""
    found = []
    for digest in (plan.get("source") or {}).get("trials", []):
        record = store.read("sources", digest) or {"status": "not yet trained"}
        model = record.get("trial", {}).get("source", {}).get("model")
        rows = [
            ("model", model and str(model)),
            ("status", record["status"]),
            ("validation", (value := record.get("val_accuracy")) and f"{percent(value)} %"),
            ("test", (value := record.get("test_accuracy")) and f"{percent(value)} %"),
            ("time", (value := record.get("seconds")) and duration(value)),
        ]
        found.append((digest, [(name, text) for name, text in rows if text]))
    return found
