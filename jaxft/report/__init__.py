"""The HTML report of a study: one file that opens anywhere and cites itself.

Imports `core`, `config`, `analysis` and `store`. A section is a file in `sections/` and a line there, a kind of
figure a file in `figures/`.
"""

from pathlib import Path

from jaxft.store.records import Store


def write_report(workdir: str | Path) -> Path:
    """Writes `report.html` into a study's work directory and returns its path.

    The same records give the same bytes. Raises a `UserError` where the directory holds no study, or cannot
    be written.
    """
    from jaxft.report.page import write_page  # late: it imports matplotlib, pandas and jinja2

    return write_page(Store.open(workdir))
