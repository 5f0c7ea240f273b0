"""The analysis of variance of the test accuracy over the factors of the study."""

from markupsafe import Markup

from jaxft.analysis.statistics import has_statsmodels
from jaxft.core.errors import UserError
from jaxft.report.context import ReportContext
from jaxft.report.effects import HEADER, analyze_effects
from jaxft.report.template import render_fragment


def make_anova(context: ReportContext) -> Markup | None:
    """Returns the section; None without two varying factors, tested trials, or statsmodels."""
    is_tested = any(setting.test.num_values for setting in context.settings)
    if len(context.varying) < 2 or not is_tested or not has_statsmodels():
        return None
    try:
        effects = analyze_effects(context.plan, context.results, context.varying)
    except UserError as error:
        return Markup("<p>{}</p>").format(f"There is no analysis of variance: {error}")
    return render_fragment("sections/anova.html", header=HEADER, rows=effects.rows(), notes=effects.notes)
