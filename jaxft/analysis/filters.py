"""Filters that changed: the fraction above a threshold, and the filters that changed most."""

from collections.abc import Mapping

import jax
import numpy as np
import pandas as pd

from jaxft.analysis.sums import Change


def fraction_changed(by_leaf: Mapping[str, Change], threshold: float) -> dict[str, np.ndarray]:
    """Returns {leaf: fraction of filters with ||w - w0|| / ||w0|| > threshold}, of shape [], or [R] for R runs.

    A filter that is zero before and after training is unchanged. A filter that is zero only before training is changed.

    Args:
      by_leaf: the result of `parameters.filter_changes`, with values of shape [filters] or [R, filters].
      threshold: the threshold of the relative change, at least 0.
    """
    return {leaf: (np.asarray(change["relative_l2"]) > threshold).mean(-1) for leaf, change in by_leaf.items()}


def most_changed(by_leaf: Mapping[str, Change], count: int, measure: str = "relative_l2") -> pd.DataFrame:
    """Returns the `count` filters of each run with the largest `measure`, over all leaves, largest first.

    The columns are run, leaf, filter and value. Filters whose measure is nan are left out.

    Args:
      by_leaf: the result of `parameters.filter_changes`, with values of shape [filters] or [R, filters].
      count: the number of filters.
      measure: the name of a measure.

    Raises:
      ValueError: `count` is below 1, or there is no such measure.
    """
    if count < 1:
        raise ValueError(f"`count` is {count}; it must be at least 1.")
    tables = []
    for leaf, change in jax.device_get(dict(by_leaf)).items():
        if measure not in change:
            raise ValueError(f"there is no measure {measure!r}; the measures are {', '.join(change)}.")
        values = np.atleast_2d(change[measure])
        runs, filters = np.indices(values.shape).reshape(2, -1)
        tables.append(pd.DataFrame({"run": runs, "leaf": leaf, "filter": filters, "value": values.ravel()}))
    if not tables:
        return pd.DataFrame(columns=["run", "leaf", "filter", "value"])
    table = pd.concat(tables).dropna().sort_values(["run", "value"], ascending=[True, False], kind="stable")
    return table.groupby("run").head(count).reset_index(drop=True)
