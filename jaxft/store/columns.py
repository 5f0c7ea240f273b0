"""The registry of columns of the results, which all tables and result files use.

A row is a trial. Its first columns identify the trial (`KEYS`, and the factors of the study). All other columns are
registered here, in their order. To add a column, register it:

    COLUMNS.register(
        "num_train",
        Column(lambda record: record.get("images", {}).get("train"), "float64", title="images", format=number),
        help="number of training images",
    )

`Store.results()`, `results.csv` and `results.parquet` then contain the column. If it has a title, `jaxft results
--trials` and the table of trials in the report show it. Columns of metrics (`jaxft.core.metrics.METRICS`), such as
`val_accuracy`, come before the registered columns, and columns of measures of parameter change, such as `backbone_rms`,
after them.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxft.core.metrics import METRICS, SUBSETS, Metric
from jaxft.core.registry import Registry
from jaxft.core.text import MISSING, duration, number

KEYS = {
    "trial": "digest of the trial",
    "status": "'done', 'diverged' or 'failed'; metrics are missing unless it is 'done'",
    "setting": "number of the setting, which is a combination of factor levels",
    "seed": "seed of the trial",
}
BACKBONE = "backbone_"  # prefix of columns for measures of parameter change below the head
Interval = tuple[float, float, int]  # mean, half width of the interval, number of values


def every_study(plan: Mapping[str, Any]) -> bool:
    """Returns True, for columns that are shown for every study."""
    return True


def has_uneven_classes(plan: Mapping[str, Any]) -> bool:
    """Returns whether the numbers of test images per class differ so much that metrics over classes are shown."""
    return bool(plan.get("uneven"))


def text_cell(value: Any) -> str:
    """Returns `value` if it is a string, otherwise a dash."""
    return value if isinstance(value, str) else MISSING


def mean_number(interval: Interval) -> str:
    """Returns the mean of an interval with three digits."""
    return number(interval[0])


@dataclass(frozen=True)
class Column:
    """A column of the results.

    Attributes:
      value: returns the value, from the record of a finished or failed trial; None if it is missing.
      dtype: dtype of the column in a DataFrame; if None, pandas infers it.
      title: heading in tables of trials; if empty, only files contain the column.
      unit: unit of the strings from `format`.
      format: returns the string of a value, which may be None or nan.
      summary: returns the string of (mean, half width of the interval, number of values) over seeds, for tables of
        settings; if None, these tables do not contain the column.
      summary_title: heading in tables of settings; if empty, `title`.
      applies: returns whether tables show the column, from the plan of a study.
    """

    value: Callable[[Mapping[str, Any]], Any]
    dtype: str | None = None
    title: str = ""
    unit: str = ""
    format: Callable[[Any], str] = text_cell
    summary: Callable[[Interval], str] | None = None
    summary_title: str = ""
    applies: Callable[[Mapping[str, Any]], bool] = every_study

    @property
    def is_number(self) -> bool:
        """Returns whether the column contains numbers, which tables align to the right."""
        return self.dtype is not None

    def heading(self, separator: str = " ") -> str:
        """Returns the heading in a table of trials, with the unit: 'validation %'."""
        return separator.join(filter(None, (self.title, self.unit)))

    def summary_heading(self, separator: str = " ") -> str:
        """Returns the heading in a table of settings, with the unit."""
        return separator.join(filter(None, (self.summary_title or self.title, self.unit)))


def from_record(name: str) -> Callable[[Mapping[str, Any]], Any]:
    """Returns a function that reads the field `name` of a record."""
    return lambda record: record.get(name)


COLUMNS: Registry[Column] = Registry("column")


def add_field(name: str, dtype: str | None = "float64", *, help: str, **shown: Any) -> None:
    """Registers the field `name` of trial records as a column.

    Args:
      name: the name of the field and of the column.
      dtype: dtype of the column in a DataFrame; if None, pandas infers it.
      help: one self-contained line.
      shown: other attributes of the `Column`.
    """
    COLUMNS.register(name, Column(from_record(name), dtype, **shown), help=help)


add_field("selected_epoch", title="selected epoch", format=number, help="epoch with the best validation accuracy")
add_field(
    "relative_change",
    summary=mean_number,
    summary_title="backbone change",
    help="||w - w0|| / ||w0|| over all parameters below the head",
)
add_field(
    "seconds",
    title="time",
    format=lambda seconds: duration(seconds, precise=True),
    help="time of the trial, in seconds",
)
add_field("executor", None, title="executor", help="executor that ran the trial")
add_field("width", None, help="number of trials that ran together")


def backbone_column(name: str) -> Column:
    """Returns the column for a measure of parameter change below the head, named `backbone_<measure>`."""
    measure = name.removeprefix(BACKBONE)
    return Column(
        lambda record: (record.get("backbone_change") or {}).get(measure),
        "float64",
        title=f"{measure.replace('_', ' ')} of the backbone",
        format=number,
        summary=mean_number,
    )


def metric_of(name: str) -> tuple[str, str] | None:
    """Returns (subset of the images, metric) of a column `val_<metric>` or `test_<metric>`; None for other columns."""
    subset, _, metric = name.partition("_")
    return (subset, metric) if subset in SUBSETS and metric else None


def metric_column(subset: str, name: str) -> Column:
    """Returns the column for a metric on a subset of the images, named `val_<metric>` or `test_<metric>`.

    Tables show all metrics on test images, but on validation images only the accuracy, which is used for selection.
    """
    # If the plug-in of a metric is not loaded, its name is used as the title.
    unknown = Metric(lambda labels, predictions: math.nan, title=name.replace("_", " "), is_share=False)
    metric = METRICS[name].value if name in METRICS else unknown
    title = (SUBSETS if name == "accuracy" else {"val": "", "test": metric.title})[subset]
    summary = metric.format_interval if subset == "test" else lambda interval: metric.format(interval[0])
    return Column(
        from_record(f"{subset}_{name}"),
        "float64",
        title=title,
        unit=metric.unit,
        format=metric.format,
        summary=summary if title else None,
        applies=has_uneven_classes if metric.only_uneven else every_study,
    )


def column_help(name: str) -> str:
    """Returns the help of a column of the results, which is registered, or is of a metric or a measure."""
    if name in COLUMNS:
        return COLUMNS[name].help
    if subset_and_metric := metric_of(name):
        subset, metric = subset_and_metric
        return f"{METRICS[metric].help if metric in METRICS else metric}, on the {SUBSETS[subset]} images"
    return f"{name.removeprefix(BACKBONE)} below the head"


def columns_of(names: Iterable[str]) -> dict[str, Column]:
    """Returns the columns among `names` that are registered, or are of metrics or of measures of the backbone."""
    columns = {}
    for name in names:
        if name in COLUMNS:
            columns[name] = COLUMNS[name].value
        elif subset_and_metric := metric_of(name):
            columns[name] = metric_column(*subset_and_metric)
        elif name.startswith(BACKBONE):
            columns[name] = backbone_column(name)
    return columns


def trial_columns(plan: Mapping[str, Any], names: Iterable[str]) -> dict[str, Column]:
    """Returns the columns among `names` that tables of trials show."""
    return {name: column for name, column in columns_of(names).items() if column.title and column.applies(plan)}


def summary_columns(plan: Mapping[str, Any], names: Iterable[str]) -> dict[str, Column]:
    """Returns the columns among `names` that tables of settings show."""
    return {name: column for name, column in columns_of(names).items() if column.summary and column.applies(plan)}


def tested_columns(plan: Mapping[str, Any], names: Iterable[str]) -> dict[str, Column]:
    """Returns the columns among `names` of all metrics on test images except the accuracy."""
    shown = summary_columns(plan, names)
    return {name: column for name, column in shown.items() if name.startswith("test_") and name != "test_accuracy"}
