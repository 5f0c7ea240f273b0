"""Tables of a study: its results, a row a trial, and the change of each layer."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.core.files import explained_os_errors, replacing
from jaxft.core.metrics import field_names
from jaxft.store.columns import BACKBONE, COLUMNS, columns_of, metric_of

if TYPE_CHECKING:
    import pandas as pd

    from jaxft.store.records import Store


def load_results(workdir: str | os.PathLike[str]) -> "pd.DataFrame":
    """Returns the results of the study in `workdir` as a DataFrame, a row a trial that has run.

    Columns: `trial` (digest), `status` ('done', 'diverged', 'failed'), `setting` (a number for each combination of
    levels), the factors under their dotted names, `seed`, those of metrics (`jaxft.core.metrics.METRICS`):
    `val_accuracy`, `test_accuracy`, `val_mean_per_class`, `test_mean_per_class`, and those of
    `jaxft.store.columns.COLUMNS`: `selected_epoch`, `relative_change`, `seconds`, `executor`, `width`.
    `jaxft results DIR --columns` prints what each is.
    """
    from jaxft.store.records import Store

    return Store.open(os.fspath(workdir)).results()


def results_table(store: "Store") -> "pd.DataFrame":
    """Returns a row for each trial of the study as last planned that has run; `load_results` names the columns."""
    import pandas as pd

    plan = store.plan()
    trials = [(trial, record) for trial in plan["trials"] if (record := record_of(store, trial["trial"])) is not None]
    recorded = [name for _, record in trials for name in record if metric_of(name)]
    backbones = [BACKBONE + name for _, record in trials for name in record.get("backbone_change") or {}]
    columns = columns_of(dict.fromkeys([*field_names(), *recorded, *COLUMNS, *backbones]))
    rows = [
        {
            "trial": trial["trial"],
            "status": record["status"],
            "setting": trial["setting"],
            **{name: level_cell(level) for name, level in trial["factors"].items()},
            "seed": trial["seed"],
            **{name: column.value(record) for name, column in columns.items()},
        }
        for trial, record in trials
    ]
    table = pd.DataFrame(rows, columns=["trial", "status", "setting", *plan["factors"], "seed", *columns])
    return table.astype({name: column.dtype for name, column in columns.items() if column.dtype})


def record_of(store: "Store", digest: str) -> dict[str, Any] | None:
    """Returns the record of a trial, or that of its failure; None where it has not run."""
    return store.read("trials", digest) or store.read("failures", digest)


def level_cell(level: Any) -> Any:
    """Returns a level as a cell of a table: 'none' for None, which would be taken for a missing value."""
    if level is None:
        return "none"
    if isinstance(level, Mapping):
        return json.dumps(level, sort_keys=True)
    if isinstance(level, Sequence) and not isinstance(level, str):
        return tuple(level_cell(item) for item in level)
    return level


def changes_table(store: "Store") -> "pd.DataFrame":
    """Returns a row for each trial and layer: `trial`, `setting`, `seed`, `layer`, and a column a measure.

    The measures are those that `jaxft.analysis.parameters.MEASURES` had when the trial ran; layers are in the
    network's order.
    """
    import pandas as pd

    rows = []
    for trial in store.plan()["trials"]:
        record = store.read("trials", trial["trial"])
        for layer, change in ((record or {}).get("changes") or {}).items():
            keys = {name: trial[name] for name in ("trial", "setting", "seed")}
            rows.append({**keys, "layer": layer, **change})
    return pd.DataFrame(rows)


def export_results(store: "Store") -> tuple[Path, Path]:
    """Writes `results.csv` and `results.parquet` into the work directory and returns their paths."""
    table = store.results()
    # A factor may mix numbers and words ('frozen') or hold rules, which a Parquet column cannot.
    mixed = {
        name: table[name].map(lambda level: level if isinstance(level, str) else json.dumps(level))
        for name in store.plan()["factors"]
        if table[name].dtype == object
    }
    paths = store.workdir / "results.csv", store.workdir / "results.parquet"
    with explained_os_errors(store.workdir):
        with replacing(paths[0]) as temporary:
            table.to_csv(temporary, index=False)
        with replacing(paths[1]) as temporary:
            table.assign(**mixed).to_parquet(temporary, index=False)
    return paths
