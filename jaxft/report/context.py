"""What all sections of a study's page are made from."""

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
    """A study's store, and what sections read of it, each part once.

    Attributes:
      store: the records.
      plan: the study as last planned (`Store.plan`).
      results: a row for each trial that has run (`Store.results`).
      settings: the settings, with means over their trials.
    """

    store: Store
    plan: Mapping[str, Any]
    results: pd.DataFrame
    settings: list[Setting]

    @classmethod
    def of(cls, store: Store) -> "ReportContext":
        """Returns the context of a study."""
        plan, results = store.plan(), store.results()
        return cls(store, plan, results, summarize_settings(plan, results))

    @cached_property
    def best(self) -> Setting | None:
        """Returns the setting chosen on validation, if any trial is done."""
        return chosen_setting(self.settings)

    @cached_property
    def varying(self) -> list[str]:
        """Returns the factors that have more than one level."""
        return [name for name in self.plan["factors"] if len(levels_of(name, self.settings)) > 1]

    @cached_property
    def labels(self) -> dict[str, dict[str, str]]:
        """Returns {varying factor: {key of a level: its label}}."""
        return {name: level_labels(levels_of(name, self.settings)) for name in self.varying}

    @cached_property
    def arms(self) -> list[Arm]:
        """Returns the arms; none where the study selects over no factor."""
        return arms_of(self.store, self.plan, self.results)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Returns how many trials are planned, finished (done or diverged), waiting, and of each status."""
        by_status = {status: int((self.results["status"] == status).sum()) for status in STATUSES}
        planned, finished = len(self.plan["trials"]), by_status["done"] + by_status["diverged"]
        return {"planned": planned, "finished": finished, "waiting": planned - len(self.results), **by_status}

    @property
    def chance(self) -> float | None:
        """Returns the accuracy of guessing, in [0, 1], if it is known."""
        return self.plan.get("chance")
