"""HTML pages: the report of a study, and the page and model card of `jaxft finetune`.

Each page is a single file that needs no other files. Imports only `core`, `config`, `analysis` and `store`. To add a
section, write a file in `sections/` and register it; to add a kind of figure, write a file in `figures/`.
"""

from pathlib import Path

from jaxft.store.records import Store


def write_report(workdir: str | Path) -> Path:
    """Writes `report.html` into the work directory of a study and returns its path.

    The page depends only on the records of the study: equal records give identical bytes.

    Raises:
      UserError: if the directory contains no study, or cannot be written.

    Example:
      path = write_report("runs/quickstart")
    """
    from jaxft.report.page import write_page  # late, because it imports matplotlib, pandas and jinja2

    return write_page(Store.open(workdir))
