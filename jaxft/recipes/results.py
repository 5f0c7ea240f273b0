"""The results of a study as DataFrames, read from its work directory."""

import os
from typing import TYPE_CHECKING

from jaxft.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from jaxft.report.figures import Arm
    from jaxft.store.records import Store


def load_results(workdir: str | os.PathLike[str]) -> "pd.DataFrame":
    """Returns the results of the study in `workdir` as a DataFrame, a row a trial that has run.

    Columns (`jaxft.store.records.Store.results` says more): `trial`, `status`, `setting`, the factors under their
    dotted names, `seed`, `val_accuracy`, `test_accuracy`, `val_mean_per_class`, `test_mean_per_class`,
    `selected_epoch`, `relative_change`, `seconds`, `executor`, `width`.
    """
    from jaxft.store.records import Store

    return Store.open(os.fspath(workdir)).results()


def load_selected(workdir: str | os.PathLike[str]) -> "pd.DataFrame":
    """Returns the trial that each seed selected on validation in each arm, as rows of `load_results`.

    In front is the column `arm`: the levels of the factors that the study does not select over (`select_over`).
    Raises a `UserError` where the study selects over no factor.
    """
    from jaxft.report.selection import selected_results

    store, arms = open_arms(workdir)
    return selected_results(arms, store.results())


def open_arms(workdir: str | os.PathLike[str]) -> "tuple[Store, list[Arm]]":
    """Returns the store of a study and its arms; raises a `UserError` where it selects over no factor."""
    from jaxft.report.selection import arms_of
    from jaxft.store.records import Store

    store = Store.open(os.fspath(workdir))
    plan = store.plan()
    arms = arms_of(store, plan, store.results())
    if not arms:
        raise UserError(
            f"the study in {str(workdir)!r} selects over no factor; name one of "
            f"{', '.join(plan['factors']) or 'its factors (it has none)'} in 'select_over' and run it again: "
            "no trial is repeated."
        )
    return store, arms
