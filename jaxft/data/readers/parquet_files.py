"""Opening Parquet files, on disk or in an archive."""

from typing import Any

from jaxft.core.errors import UserError
from jaxft.data.readers.attempts import reason_of
from jaxft.data.readers.files import Files


def open_parquet(files: Files, name: str) -> Any:
    """Returns an open Parquet file. A file in an archive is loaded into memory; other files are read on demand.

    Raises:
      UserError: the file cannot be read as Parquet.
    """
    import pyarrow as pa
    from pyarrow import parquet

    path = files.path / name if files.path.is_dir() else files.path
    try:
        if path.suffix == ".parquet" and path.exists():
            return parquet.ParquetFile(path)
        return parquet.ParquetFile(pa.BufferReader(files.content(name)))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name!r} in {str(files.path)!r} cannot be read as Parquet: {reason_of(error)}.") from None
