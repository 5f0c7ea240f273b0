"""The table of settings."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from jaxft.analysis.statistics import Interval
from jaxft.report.context import ReportContext
from jaxft.report.levels import level_key
from jaxft.report.methods import interval_text
from jaxft.report.template import render_fragment
from jaxft.store.columns import column_help, summary_columns, tested_columns


def make_settings(context: ReportContext) -> Markup:
    """Returns the section, with one row per setting and means over the done trials."""
    columns = summary_columns(context.plan, context.results.columns)
    tested = tested_columns(context.plan, context.results.columns)
    separate = {"val_accuracy", "test_accuracy", *tested}  # columns that the template places
    return render_fragment(
        "sections/settings.html",
        settings=context.settings,
        best=context.best,
        tested=tested,
        column_help=column_help,
        intervals=interval_text(context.plan, (s.test.num_values for s in context.settings)),
        factors=context.varying,
        labels=context.labels,
        key=level_key,
        has_none=any(s.factors.get(name) is None for s in context.settings for name in context.varying),
        scale=scale_of([s.test for s in context.settings]),
        more={name: column for name, column in columns.items() if name not in separate},
    )


def scale_of(intervals: Sequence[Interval]) -> tuple[float, float]:
    """Returns the ends of an axis in [0, 1] that includes all intervals of accuracy."""
    known = [v for v in intervals if v.num_values]
    halves = [0.0 if math.isnan(v.half_width) else v.half_width for v in known]
    low = min((v.mean - half for v, half in zip(known, halves)), default=0.0)
    high = max((v.mean + half for v, half in zip(known, halves)), default=1.0)
    margin = 0.03 * (high - low) or 0.01
    return max(low - margin, 0.0), min(high + margin, 1.0)
