"""The columns of a study's results: one declared list, which the results, their files and all tables iterate over.

A row is a trial. Its first columns say which trial it is (KEYS, and the factors of the study); all others are
registered here, in the order in which they appear. To add one, register it:

    COLUMNS.register(
        "num_train",
        Column(lambda record: record.get("images", {}).get("train"), "float64", title="images", format=number),
        help="number of training images",
    )

It is then in `Store.results()`, `results.csv` and `results.parquet`, and with a title in `jaxft results --trials` and
the report's table of trials. Columns of metrics (`jaxft.core.metrics.METRICS`), such as `val_accuracy`, come before
them, and those of measures of parameter change, such as `body_rms`, after them.
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
    "status": "'done', 'diverged' or 'failed'; metrics are missing where it is not 'done'",
    "setting": "number of the combination of factor levels",
    "seed": "seed of the trial",
}
BACKBONE = "backbone_"  # begins the names of columns for measures of parameter change below the head
Interval = tuple[float, float, int]  # mean, half width of the interval, number of values


def every_study(plan: Mapping[str, Any]) -> bool:
    """Returns True: the column is shown for every study."""
    return True


def has_uneven_classes(plan: Mapping[str, Any]) -> bool:
    """Returns whether some class has many more test images than another, so that a mean over classes differs."""
    return bool(plan.get("uneven"))


def text_cell(value: Any) -> str:
    """Returns a word as it is, and a dash for a missing one."""
    return value if isinstance(value, str) else MISSING


def mean_number(interval: Interval) -> str:
    """Returns the mean of an interval with three digits."""
    return number(interval[0])


@dataclass(frozen=True)
class Column:
    """A column of the results.

    Attributes:
      value: returns the cell, from the record of a trial that has run (or failed); None where it is missing.
      dtype: of the column in a DataFrame; None: as pandas infers it.
      title: its heading in tables of trials; empty: it is in files only.
      unit: of the values that `format` writes.
      format: returns the text of a cell, which may be None or nan.
      summary: returns the text of (mean, half width of the interval, number of values) over seeds, for tables of
        settings; None: they leave the column out.
      summary_title: its heading there; empty: `title`.
      applies: returns whether tables show it for the study of a plan.
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
        """Returns whether cells end flush right."""
        return self.dtype is not None

    def heading(self, separator: str = " ") -> str:
        """Returns the heading in a table of trials, with the unit: 'validation %'."""
        return separator.join(filter(None, (self.title, self.unit)))

    def summary_heading(self, separator: str = " ") -> str:
        """Returns the heading in a table of settings."""
        return separator.join(filter(None, (self.summary_title or self.title, self.unit)))


def from_record(name: str) -> Callable[[Mapping[str, Any]], Any]:
    """Returns a function that reads the field `name` of a record."""
    return lambda record: record.get(name)


COLUMNS: Registry[Column] = Registry("column")


def add_field(name: str, dtype: str | None = "float64", *, help: str, **shown: Any) -> None:
    """Registers the field `name` of trial records as a column."""
    COLUMNS.register(name, Column(from_record(name), dtype, **shown), help=help)


add_field("selected_epoch", title="epoch kept", format=number, help="epoch with the best validation accuracy")
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
    help="seconds that the trial took",
)
add_field("executor", None, title="executor", help="executor that ran the trial")
add_field("width", None, help="number of trials that ran side by side")


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
    """Returns (part of the images, metric) of the column `val_<metric>` or `test_<metric>`; None for any other."""
    subset, _, metric = name.partition("_")
    return (subset, metric) if subset in SUBSETS and metric else None


def metric_column(subset: str, name: str) -> Column:
    """Returns the column for a metric on a part of the images, named `val_<metric>` or `test_<metric>`.

    Tables show all metrics on the test images, and on validation images the accuracy, by which trials are selected.
    """
    # Without its plug-in, a metric is called by its name.
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
    """Returns what a column of the results is, if it is registered or of a metric or measure."""
    if name in COLUMNS:
        return COLUMNS[name].help
    if of := metric_of(name):
        subset, metric = of
        return f"{METRICS[metric].help if metric in METRICS else metric}, on the {SUBSETS[subset]} images"
    return f"{name.removeprefix(BACKBONE)} below the head"


def columns_of(names: Iterable[str]) -> dict[str, Column]:
    """Returns the columns that are registered, or of metrics or measures of the body, among those of the results."""
    columns = {}
    for name in names:
        if name in COLUMNS:
            columns[name] = COLUMNS[name].value
        elif of := metric_of(name):
            columns[name] = metric_column(*of)
        elif name.startswith(BACKBONE):
            columns[name] = backbone_column(name)
    return columns


def trial_columns(plan: Mapping[str, Any], names: Iterable[str]) -> dict[str, Column]:
    """Returns the columns that tables of trials show, of those in the results."""
    return {name: column for name, column in columns_of(names).items() if column.title and column.applies(plan)}


def summary_columns(plan: Mapping[str, Any], names: Iterable[str]) -> dict[str, Column]:
    """Returns the columns that tables of settings show, of those in the results."""
    return {name: column for name, column in columns_of(names).items() if column.summary and column.applies(plan)}


def tested_columns(plan: Mapping[str, Any], names: Iterable[str]) -> dict[str, Column]:
    """Returns the columns that tables show beside the test accuracy: all other metrics on the test images."""
    shown = summary_columns(plan, names)
    return {name: column for name, column in shown.items() if name.startswith("test_") and name != "test_accuracy"}
