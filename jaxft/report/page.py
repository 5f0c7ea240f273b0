"""The report of a study as one HTML file: a header, and the registered sections that apply to the study."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from jaxft.core import interrupts
from jaxft.core.files import explained_os_errors, replacing
from jaxft.core.labels import label
from jaxft.report.context import ReportContext
from jaxft.report.methods import streams_text
from jaxft.report.sections import builtin  # noqa: F401  (registers the sections)
from jaxft.report.sections.registry import SECTIONS
from jaxft.report.template import render_template
from jaxft.store.records import Store


def write_page(store: Store) -> Path:
    """Writes `report.html` into the work directory of the study and returns its path."""
    path = store.workdir / "report.html"
    page = render(store)
    with explained_os_errors(store.workdir), replacing(path) as temporary:
        temporary.write_bytes(page.encode())
    return path


def render(store: Store) -> str:
    """Returns the HTML of the page."""
    context = ReportContext.of(store)
    return render_template("page.html", sections=sections_of(context), **header_values(context))


def sections_of(context: ReportContext) -> list[dict[str, Any]]:
    """Returns the name, title, link text and HTML of each section that applies, in the order of registration."""
    bodies = []
    for entry in SECTIONS.values():
        interrupts.check()
        bodies.append((entry, entry.value.make(context)))
    return [
        {"name": entry.name, "title": entry.value.title, "nav": entry.value.nav or entry.value.title, "body": body}
        for entry, body in bodies
        if body is not None
    ]


def header_values(context: ReportContext) -> dict[str, Any]:
    """Returns the values of the page header: docstring, progress, failures, and the setting selected on validation."""
    plan, settings = context.plan, context.settings
    return {
        "plan": plan,
        "paragraphs": paragraphs(plan.get("docstring") or ""),
        "counts": context.counts,
        "failures": failures(context),
        "num_seeds": len({trial["seed"] for trial in plan["trials"]}),
        "streams": streams_text(plan),
        "settings": settings,
        "best": context.best,
        "tested": any(s.test.num_values for s in settings),
        "named_by": " · ".join(label(name) for name in context.varying),
    }


def paragraphs(text: str) -> list[tuple[str, bool]]:
    """Returns (paragraph, whether it directly follows the previous one) for the paragraphs of a docstring.

    Wrapped lines are joined. A line that begins with a bullet, a number or a label such as 'Expected:' is a separate
    paragraph.
    """
    pieces = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = re.split(r"\n(?=\s*(?:[-*•] |\d+\. |[A-Z][\w ]{0,24}:(?:\s|$)))", block)
        pieces += [(" ".join(line.split()), i > 0) for i, line in enumerate(lines)]
    return [(line, follows) for line, follows in pieces if line]


def failures(context: ReportContext) -> list[tuple[str, int]]:
    """Returns (first line of the error message, number of trials) for each distinct error of the failed trials."""
    failed = context.results.loc[context.results["status"] == "failed", "trial"]
    records = [context.store.read("failures", digest) for digest in failed]
    reasons = [str((record or {}).get("error") or "no reason recorded").split("\n")[0] for record in records]
    return list(Counter(reasons).items())
