"""The data from which the sections of the report are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from jaxft.report.labels import level_labels
from jaxft.report.selection import Arm, arms_of
from jaxft.report.settings import Setting, chosen_setting, levels_of, summarize_settings
from jaxft.store.records import Store

STATUSES = ("done", "diverged", "failed")


@dataclass(frozen=True)
class ReportContext:
    """The records of a study, and the tables that several sections use.

    Attributes:
      store: the records of the study.
      plan: the latest plan of the study (`Store.plan`).
      results: one row per trial that has run (`Store.results`).
      settings: the settings, with means over their trials.
    """

    store: Store
    plan: Mapping[str, Any]
    results: pd.DataFrame
    settings: list[Setting]

    @classmethod
    def of(cls, store: Store) -> "ReportContext":
        """Returns the context of the study in `store`."""
        plan, results = store.plan(), store.results()
        return cls(store, plan, results, summarize_settings(plan, results))

    @cached_property
    def best(self) -> Setting | None:
        """Returns the setting with the highest mean validation accuracy; None if no trial is done."""
        return chosen_setting(self.settings)

    @cached_property
    def varying(self) -> list[str]:
        """Returns the factors that have more than one level."""
        return [name for name in self.plan["factors"] if len(levels_of(name, self.settings)) > 1]

    @cached_property
    def labels(self) -> dict[str, dict[str, str]]:
        """Returns the label of each level, as {varying factor: {level key: label}}."""
        return {name: level_labels(levels_of(name, self.settings)) for name in self.varying}

    @cached_property
    def arms(self) -> list[Arm]:
        """Returns the arms; empty if the study has no `select_over`."""
        return arms_of(self.store, self.plan, self.results)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Returns the numbers of planned, finished (done or diverged) and waiting trials, and of trials per status."""
        by_status = {status: int((self.results["status"] == status).sum()) for status in STATUSES}
        planned, finished = len(self.plan["trials"]), by_status["done"] + by_status["diverged"]
        return {"planned": planned, "finished": finished, "waiting": planned - len(self.results), **by_status}

    @property
    def chance(self) -> float | None:
        """Returns the accuracy of random guessing, in [0, 1]; None if it is unknown."""
        return self.plan.get("chance")
