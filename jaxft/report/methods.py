"""Descriptions of the statistics in tables and captions: which interval or test, and what varies over the seeds."""

from collections.abc import Iterable, Mapping
from typing import Any

from jaxft.core.text import plural
from jaxft.report.settings import seeds_text

NOTHING_VARIES = "no random stream differs between seeds"


def streams_text(plan: Mapping[str, Any]) -> str:
    """Returns the random streams that vary over the seeds: 'random streams that differ between seeds: split, init'.

    An interval over seeds does not include the variation from other streams (`jaxft.config.streams`).
    """
    varied = plan.get("varied") or []
    return f"random streams that differ between seeds: {', '.join(varied)}" if varied else NOTHING_VARIES


def interval_text(plan: Mapping[str, Any], counts: Iterable[int]) -> str:
    """Returns the kind of the intervals and the number of seeds, from the number of seeds of each interval.

    Such as '95 % Student t intervals over 5 seeds (random streams that differ between seeds: split, init)', or 'no
    interval (1 seed)'.
    """
    counts = list(counts)
    if max(counts, default=0) < 2:
        return f"no interval ({seeds_text(counts)})"
    return f"95 % Student t intervals over {seeds_text(counts)} ({streams_text(plan)})"


def paired_test_text(num_comparisons: int) -> str:
    """Returns the test of differences: 'two-sided paired t test over seeds, Holm-corrected over 8 comparisons'."""
    corrected = f", Holm-corrected over {plural(num_comparisons, 'comparison')}" if num_comparisons > 1 else ""
    return f"two-sided paired t test over seeds{corrected}"
