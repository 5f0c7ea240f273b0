"""How the study was made: commands, runs, source networks and config."""

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
        runs=[run_record(run) for run in reversed(runs)],
        commands=commands(runs),
        sources=sources_of(context.store, plan),
        changed=field_texts(plan["changed"]),
        config=json.dumps(plan["config"], indent=2, ensure_ascii=False),
        config_path=plan.get("config_path"),
    )


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


def field_texts(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (dotted name, value as text) of the fields in nested dicts."""
    named = flattened(fields).items()
    return [(name, factors_text(value) if name == "factors" else as_text(value)) for name, value in named]


def factors_text(blocks: Sequence[Mapping[str, Sequence[Any]]]) -> str:
    """Returns a line for each product block, such as 'training.initialization.start: random × "
    "training.schedule.epochs: 5, 10'."""
    return "\n".join(
        " × ".join(f"{name}: {', '.join(map(as_text, levels))}" for name, levels in block.items()) for block in blocks
    )


def flattened(fields: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Returns nested dicts as one, under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        dotted = f"{where}.{name}" if where else str(name)
        flat |= flattened(value, dotted) if isinstance(value, Mapping) else {dotted: value}
    return flat


def sources_of(store: Store, plan: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Returns the source networks that were trained here: (digest, what came of it as (name, text))."""
    sources = []
    for digest in (plan.get("source") or {}).get("trials", []):
        record = store.read("sources", digest) or {"status": "not yet trained"}
        model = record.get("trial", {}).get("source", {}).get("model")
        rows = [
            ("model", model and str(model)),
            ("status", record["status"]),
            ("validation", (value := record.get("val_accuracy")) and f"{percent(value)} %"),
            ("test", (value := record.get("test_accuracy")) and f"{percent(value)} %"),
            ("time", (value := record.get("seconds")) and duration(value, precise=True)),
        ]
        sources.append((digest, [(name, text) for name, text in rows if text]))
    return sources
