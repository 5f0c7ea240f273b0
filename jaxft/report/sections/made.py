"""How to reproduce the study: commands, runs, source networks and config."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from jaxft.core.text import as_text, duration, percent
from jaxft.report.context import ReportContext
from jaxft.report.template import render_fragment
from jaxft.store.records import Store


def make_made(context: ReportContext) -> Markup:
    """Returns the section."""
    plan, runs = context.plan, context.store.runs()
    return render_fragment(
        "sections/made.html",
        runs=[run_values(run) for run in reversed(runs)],
        commands=commands(runs),
        sources=sources_of(context.store, plan),
        changed=field_texts(plan["changed"]),
        config=json.dumps(plan["config"], indent=2, ensure_ascii=False),
        config_path=plan.get("config_path"),
    )


def run_values(run: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the start time and the command of a run, and its other fields as (name, text), without its config.

    Empty fields, such as the path of a config that is not a file, are left out.
    """
    named = [(name, value) for name, value in run.items() if name not in ("started", "command", "config")]
    fields = [run_field(name, value) for name, value in named if value not in ("", None, [])]
    return {"started": run.get("started"), "command": command_text(run.get("command")), "fields": fields}


def run_field(name: str, value: Any) -> tuple[str, str]:
    """Returns (name, text) of a field in the record of a run, with units for times."""
    if name == "seconds":
        return "time", duration(value, precise=True)
    if name == "spent":
        texts = [f"{activity} {duration(seconds, precise=True)}" for activity, seconds in value.items()]
        return "time by activity", ", ".join(texts)
    return name, as_text(value)


def commands(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the distinct commands of the study, oldest first."""
    return list(dict.fromkeys(command_text(run["command"]) for run in runs if run.get("command")))


def command_text(command: Any) -> str:
    """Returns a command as it is typed in a shell."""
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command or "")


def field_texts(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (dotted name, value as text) for each field in nested dicts."""
    return [
        (name, factors_text(value) if name == "factors" else as_text(value))
        for name, value in flattened(fields).items()
    ]


def factors_text(blocks: Sequence[Mapping[str, Sequence[Any]]]) -> str:
    """Returns one line per product block, such as 'training.loss.name: a, b × training.schedule.epochs: 5, 10'."""
    return "\n".join(
        " × ".join(f"{name}: {', '.join(map(as_text, levels))}" for name, levels in block.items()) for block in blocks
    )


def flattened(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested dicts as one dict with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        dotted = f"{prefix}.{name}" if prefix else str(name)
        flat |= flattened(value, dotted) if isinstance(value, Mapping) else {dotted: value}
    return flat


def sources_of(store: Store, plan: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Returns (digest, [(name, text), ...]) for each source network that the study trains."""
    sources = []
    for digest in (plan.get("source") or {}).get("trials", []):
        record = store.read("sources", digest) or {"status": "not yet trained"}
        model = record.get("trial", {}).get("source", {}).get("model")
        rows = [
            ("model", model and str(model)),
            ("status", record["status"]),
            ("validation accuracy", (value := record.get("val_accuracy")) and f"{percent(value)} %"),
            ("test accuracy", (value := record.get("test_accuracy")) and f"{percent(value)} %"),
            ("time", (value := record.get("seconds")) and duration(value, precise=True)),
        ]
        sources.append((digest, [(name, text) for name, text in rows if text]))
    return sources
