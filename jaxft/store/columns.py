"""The columns of a study's results: one declared list, which the results, their files and all tables iterate over.

A row is a trial. Its first columns say which trial it is (KEYS, and the factors of the study); all others are
registered here, in the order in which they appear. To add one, register it:

    COLUMNS.register(
        "num_train",
        Column(lambda record: record.get("images", {}).get("train"), "float64", title="images", format=number),
        help="number of training images",
    )

It is then in `Store.results()`, `results.csv` and `results.parquet`, and with a title in `jaxft results --trials` and
the report's table of trials.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxft.core.registry import Registry
from jaxft.core.text import MISSING, duration, number, percent, percent_interval

KEYS = {
    "trial": "digest of the trial",
    "status": "'done', 'diverged' or 'failed'",
    "setting": "number of the combination of factor levels",
    "seed": "seed of the trial",
}
BODY = "body_"  # begins the names of columns for measures of parameter change below the head
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


def mean_percent(interval: Interval) -> str:
    """Returns the mean of an interval in percent."""
    return percent(interval[0])


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


add_field(
    "val_accuracy",
    title="validation",
    unit="%",
    format=percent,
    summary=mean_percent,
    help="validation accuracy in [0, 1]; missing where the trial diverged or failed",
)
add_field(
    "test_accuracy",
    title="test",
    unit="%",
    format=percent,
    summary=percent_interval,
    help="test accuracy in [0, 1]; missing where the trial diverged or failed",
)
add_field("val_mean_per_class", help="mean over the classes of the validation accuracy on each")
add_field(
    "test_mean_per_class",
    title="per class",
    unit="%",
    format=percent,
    summary=percent_interval,
    applies=has_uneven_classes,
    help="mean over the classes of the test accuracy on each",
)
add_field("selected_epoch", title="epoch kept", format=number, help="epoch with the best validation accuracy")
add_field(
    "relative_change",
    summary=mean_number,
    summary_title="change of body",
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


def body_column(name: str) -> Column:
    """Returns the column for a measure of parameter change below the head, named `body_<measure>`."""
    measure = name.removeprefix(BODY)
    return Column(
        lambda record: (record.get("body_change") or {}).get(measure),
        "float64",
        title=f"{measure.replace('_', ' ')} of body",
        format=number,
        summary=mean_number,
    )


def columns_of(names: Iterable[str]) -> dict[str, Column]:
    """Returns the registered columns, and those for measures of the body, among the columns `names` of the results."""
    return {
        name: COLUMNS[name].value if name in COLUMNS else body_column(name)
        for name in names
        if name in COLUMNS or name.startswith(BODY)
    }


def trial_columns(plan: Mapping[str, Any], names: Iterable[str]) -> dict[str, Column]:
    """Returns the columns that tables of trials show, of those in the results."""
    return {name: column for name, column in columns_of(names).items() if column.title and column.applies(plan)}


def summary_columns(plan: Mapping[str, Any], names: Iterable[str]) -> dict[str, Column]:
    """Returns the columns that tables of settings show, of those in the results."""
    return {name: column for name, column in columns_of(names).items() if column.summary and column.applies(plan)}
