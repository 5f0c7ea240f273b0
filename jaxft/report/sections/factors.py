"""Test accuracy by the levels of each factor."""

from typing import Any

from markupsafe import Markup

from jaxft.report.context import ReportContext
from jaxft.report.figures.factors import accuracy_by_factor, factor_lines
from jaxft.report.levels import axis_positions
from jaxft.report.methods import interval_text
from jaxft.report.settings import levels_of
from jaxft.report.template import render_fragment


def make_factors(context: ReportContext) -> Markup | None:
    """Returns the section, with a figure for each factor that varies; None without such factors or tested trials."""
    if not context.varying or not any(s.test.num_values for s in context.settings):
        return None
    figures = [factor_figure(context, i, factor) for i, factor in enumerate(context.varying)]
    return render_fragment("sections/factors.html", figures=figures, chance=context.chance)


def factor_figure(context: ReportContext, number: int, factor: str) -> dict[str, Any]:
    """Returns the figure of a factor, with the values of its caption."""
    settings, varying = context.settings, context.varying
    lines, description = factor_lines(factor, varying, settings)
    return {
        "factor": factor,
        "svg": accuracy_by_factor(f"factor{number}", factor, varying, settings, context.chance),
        "note": axis_positions(levels_of(factor, settings)).note,
        "lines": description,
        "intervals": interval_text(context.plan, (value.num_values for line in lines for _, value, _ in line.points)),
    }
