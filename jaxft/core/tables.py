"""Printing of tables."""

import io
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from jaxft.core.labels import label
from jaxft.core.printing import print_lines
from jaxft.core.text import escaped

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 10_000  # characters; wide enough to never cut a row


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int], ruled: bool = True
) -> None:
    """Prints a table. Rows are never cut; a narrow terminal wraps them.

    Args:
      header: titles of the columns. On a terminal, a config field is shown by its short name.
      rows: one string for each column.
      numbers: indices of the columns that are right-aligned.
      ruled: whether there is a line below the header, and empty lines around the table.
    """
    if sys.stdout.isatty():
        header = [label(title) if "." in title else title for title in header]
    print_lines(*format_table(header, rows, numbers, ruled).split("\n"))


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int], ruled: bool = True
) -> str:
    """Returns the table of `print_table` as a string, without spaces at the ends of lines.

    Characters that cannot be printed are escaped, so a row is one line.

    Args:
      header: titles of the columns.
      rows: one string for each column.
      numbers: indices of the columns that are right-aligned.
      ruled: whether there is a line below the header, and empty lines around the table.
    """
    from rich.console import Console

    file = io.StringIO()
    Console(file=file, width=WIDTH, markup=False, emoji=False, highlight=False).print(
        _table(header, rows, numbers, ruled)
    )
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip("\n").split("\n"))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int], ruled: bool) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if ruled else None, pad_edge=False, padding=(0, 1) if ruled else (0, 2, 0, 0))
    for i, title in enumerate(header):
        table.add_column(escaped(title), justify="right" if i in numbers else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(escaped, row))
    return table
