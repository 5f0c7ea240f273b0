"""Tables of a study: results with a row per trial, and parameter change with a row per trial and layer."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.core import interrupts
from jaxft.core.csv_files import write_table
from jaxft.core.files import explained_os_errors, replacing
from jaxft.core.metrics import field_names
from jaxft.store.columns import BACKBONE, COLUMNS, columns_of, metric_of

if TYPE_CHECKING:
    import pandas as pd

    from jaxft.store.records import Store

ANALYSIS_COLUMNS = ("level", "name", "measure", "value")


def load_results(workdir: str | os.PathLike[str]) -> "pd.DataFrame":
    """Returns the results of the study in `workdir` as a DataFrame with a row for each finished or failed trial.

    The columns are `trial` (digest), `status` ('done', 'diverged' or 'failed'), `setting` (number of the combination of
    factor levels), the factors by dotted name, `seed`, the metrics (`val_accuracy`, `test_accuracy`,
    `val_mean_per_class`, `test_mean_per_class`), and those of `jaxft.store.columns.COLUMNS` (`selected_epoch`,
    `relative_change`, `seconds`, `executor`, `width`). `jaxft results DIR --columns` explains each column.

    Example:
      >>> results = jaxft.load_results("runs/quickstart")
      >>> results.groupby("training.layers.backbone_learning_rate")["test_accuracy"].mean()

    Raises:
      UserError: `workdir` does not contain a study, or it was written by another version of jaxft.
    """
    from jaxft.store.records import Store

    return Store.open(os.fspath(workdir)).results()


def results_table(store: "Store") -> "pd.DataFrame":
    """Returns a row for each finished or failed trial of the last plan; see `load_results` for the columns."""
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
    """Returns the record of a trial, or of its failure; None if the trial has not run."""
    interrupts.check()
    return store.read("trials", digest) or store.read("failures", digest)


def level_cell(level: Any) -> Any:
    """Returns a factor level as a value of a table; None becomes 'none', because None is a missing value in pandas."""
    if level is None:
        return "none"
    if isinstance(level, Mapping):
        return json.dumps(level, sort_keys=True)
    if isinstance(level, Sequence) and not isinstance(level, str):
        return tuple(level_cell(item) for item in level)
    return level


def changes_table(store: "Store") -> "pd.DataFrame":
    """Returns a row for each trial and layer: `trial`, `setting`, `seed`, `layer`, and a column for each measure.

    The measures are those that were registered (`jaxft.analysis.measures.MEASURES`) when the trial ran. Layers are in
    the order of the network.
    """
    import pandas as pd

    rows = []
    for trial in store.plan()["trials"]:
        interrupts.check()
        record = store.read("trials", trial["trial"])
        for layer, change in ((record or {}).get("changes") or {}).items():
            keys = {name: trial[name] for name in ("trial", "setting", "seed")}
            rows.append({**keys, "layer": layer, **change})
    return pd.DataFrame(rows)


def load_analyses(workdir: str | os.PathLike[str]) -> "pd.DataFrame":
    """Returns the results of the analyses of the study in `workdir` (`config.analyses`), with one value in a row.

    The columns are `analysis`, `setting` (number of the combination of factor levels), the factors by dotted name,
    `seeds` (the seed of the trial, or two seeds such as '0 1' for an analysis of pairs), `level` ('total', 'block',
    'layer' or 'leaf'), `name` (of the block, layer or leaf), `measure` and `value`, which is NaN if it is not finite.

    Example:
      >>> analyses = jaxft.load_analyses("runs/mine")
      >>> analyses.query("measure == 'barrier'").groupby("setting")["value"].mean()

    Raises:
      UserError: `workdir` does not contain a study, or it was written by another version of jaxft.
    """
    from jaxft.store.records import Store

    return analyses_table(Store.open(os.fspath(workdir)))


def analyses_table(store: "Store") -> "pd.DataFrame":
    """Returns the results of the analyses of the last plan; see `load_analyses` for the columns."""
    import pandas as pd

    plan = store.plan()
    trials = {trial["trial"]: trial for trial in plan["trials"]}
    rows = []
    for digest in sorted(store.digests("analyses")):
        interrupts.check()
        record = store.read("analyses", digest) or {}
        measured = [trials[name] for name in record.get("of", ()) if name in trials]
        if not measured or len(measured) < len(record["of"]):
            continue
        first = measured[0]
        keys = {
            "analysis": record["analysis"],
            "setting": first["setting"],
            **{name: level_cell(level) for name, level in first["factors"].items()},
            "seeds": " ".join(str(trial["seed"]) for trial in measured),
        }
        rows += [keys | dict(zip(ANALYSIS_COLUMNS, row)) for row in record["rows"]]
    columns = ["analysis", "setting", *plan["factors"], "seeds", *ANALYSIS_COLUMNS]
    table = pd.DataFrame(rows, columns=columns).astype({"value": "float64"})
    return table.sort_values(["analysis", "setting", "seeds"], kind="stable", ignore_index=True)


def export_analyses(store: "Store") -> Path | None:
    """Writes `analyses.csv` into the work directory and returns its path; None if there are no analyses."""
    table = analyses_table(store)
    if not len(table):
        return None
    path = store.workdir / "analyses.csv"
    with explained_os_errors(store.workdir), replacing(path) as temporary:
        write_table(table, temporary)
    return path


def export_results(store: "Store") -> tuple[Path, Path]:
    """Writes `results.csv` and `results.parquet` into the work directory and returns their paths."""
    table = store.results()
    # The levels of a factor may mix numbers and strings ('frozen') or contain rules, which a Parquet column cannot.
    mixed = {
        name: table[name].map(lambda level: level if isinstance(level, str) else json.dumps(level))
        for name in store.plan()["factors"]
        if table[name].dtype == object
    }
    paths = store.workdir / "results.csv", store.workdir / "results.parquet"
    with explained_os_errors(store.workdir):
        with replacing(paths[0]) as temporary:
            write_table(table, temporary)
        with replacing(paths[1]) as temporary:
            table.assign(**mixed).to_parquet(temporary, index=False)
    return paths
