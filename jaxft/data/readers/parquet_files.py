"""Opening and reading Parquet files, on disk or in an archive."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxft.core.errors import UserError
from jaxft.core.reading import DAMAGE, TEXT_BYTES, check_regular, check_size
from jaxft.data.readers.attempts import reason_of
from jaxft.data.readers.files import Files

ROWS = 256  # that are decompressed between two checks of their size
CELL_BYTES = 8  # at least, in memory


def open_parquet(files: Files, name: str) -> Any:
    """Returns an open Parquet file. A file in an archive is loaded into memory; other files are read on demand.

    Raises:
      UserError: the file cannot be read as Parquet.
    """
    import pyarrow as pa
    from pyarrow import parquet

    path = files.path / name if files.path.is_dir() else files.path
    with explained_parquet(f"{name!r} in {str(files.path)!r}"):
        if path.suffix == ".parquet" and path.exists():
            check_regular(path)
            return parquet.ParquetFile(path)
        return parquet.ParquetFile(pa.BufferReader(files.content(name)))


@contextlib.contextmanager
def explained_parquet(where: str) -> Iterator[None]:
    """Converts each exception that a damaged Parquet file can cause into a `UserError` that begins with `where`.

    Raises:
      UserError: the file is damaged.
    """
    import pyarrow as pa

    try:
        yield
    except UserError:
        raise
    except (pa.ArrowException, *DAMAGE) as error:
        raise UserError(f"{where} cannot be read as Parquet: {reason_of(error)}.") from None


def read_table(file: Any, columns: Sequence[str] | None, groups: Sequence[int] | None, default: int) -> Any:
    """Returns columns of a Parquet file as an Arrow table. A few rows in the file can stand for any number of bytes.

    Args:
      file: an open Parquet file.
      columns: names of the columns; if None, all.
      groups: numbers of the row groups; if None, all.
      default: the bound of its kind in bytes, if the user sets none (`jaxft.core.reading`).

    Raises:
      Unreadable: the columns have more bytes than the bound.
      pyarrow.ArrowException, ...: the file is damaged (`explained_parquet`).
    """
    import pyarrow as pa

    batches, num_bytes = [], 0
    for batch in file.iter_batches(ROWS, row_groups=groups, columns=columns):
        num_bytes += max(batch.nbytes, CELL_BYTES * batch.num_rows * max(batch.num_columns, 1))
        check_size(num_bytes, default)
        batches.append(batch)
    schema = file.schema_arrow
    return pa.Table.from_batches(
        batches, batches[0].schema if batches else pa.schema([schema.field(name) for name in columns or schema.names])
    )


def read_cells(file: Any, columns: Sequence[str] | None = None) -> Mapping[str, Sequence[Any]]:
    """Returns the cells of columns of a Parquet file by the name of the column; see `read_table`."""
    return read_table(file, columns, None, TEXT_BYTES).to_pydict()
