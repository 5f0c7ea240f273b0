"""The table of trials."""

from typing import Any

from markupsafe import Markup

from jaxft.report.context import ReportContext
from jaxft.report.levels import level_key
from jaxft.report.template import render_fragment
from jaxft.store.columns import trial_columns


def make_trials(context: ReportContext) -> Markup:
    """Returns the section, with one row per planned trial and the columns of the results that have a title."""
    return render_fragment(
        "sections/trials.html",
        trials=trial_rows(context),
        columns=trial_columns(context.plan, context.results.columns),
        settings=context.settings,
        factors=context.varying,
        labels=context.labels,
        key=level_key,
    )


def trial_rows(context: ReportContext) -> list[dict[str, Any]]:
    """Returns one row per planned trial, including trials that have not run."""
    results = context.results
    row_of = dict(zip(results["trial"], results.to_dict("records")))
    return [
        {
            "status": "not yet run",
            **trial,
            **{k: v for k, v in row_of.get(trial["trial"], {}).items() if k not in trial},
        }
        for trial in context.plan["trials"]
    ]
