"""The arms of the study, at the levels selected on validation, and their paired differences."""

from markupsafe import Markup

from jaxft.report.context import ReportContext
from jaxft.report.figures.arms import accuracy_by_arm
from jaxft.report.methods import interval_text, paired_test_text
from jaxft.report.selection import MAX_ARMS_IN_PAIRS, contrasts_of, select_over, selected_text
from jaxft.report.template import render_fragment
from jaxft.store.columns import tested_columns


def make_arms(context: ReportContext) -> Markup | None:
    """Returns the section; None if the study has no `select_over`."""
    arms, plan = context.arms, context.plan
    if not arms:
        return None
    over, contrasts = select_over(plan), contrasts_of(arms)
    return render_fragment(
        "sections/arms.html",
        over=over,
        named_by=[name for name in plan["factors"] if name not in over],
        rows=[(arm, selected_text(arm, over, arms)) for arm in arms],
        svg=accuracy_by_arm("arms", arms, context.chance) if any(arm.selected for arm in arms) else None,
        contrasts=contrasts,
        with_first=len(arms) > MAX_ARMS_IN_PAIRS,
        intervals=interval_text(plan, (arm.test.num_values for arm in arms)),
        difference_intervals=interval_text(plan, (c.difference.interval.num_values for c in contrasts)),
        test=paired_test_text(len(contrasts)),
        tested=tested_columns(plan, context.results.columns),
        chance=context.chance,
    )
