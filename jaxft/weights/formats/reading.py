"""Bounds and errors that the readers of weight files share."""

import contextlib
import zlib
from collections.abc import Iterator
from pathlib import Path

from jaxft.core.errors import UserError
from jaxft.weights.formats.torch.refusal import DAMAGE, Refused, refuse

MOST_EXPANSION = 100  # largest size of compressed values, as a multiple of the size of the file


@contextlib.contextmanager
def explained_damage(path: Path, kind: str) -> Iterator[None]:
    """Converts each exception that an invalid file can cause into a `UserError`.

    Args:
      path: the file.
      kind: what the file should be, such as 'a Keras file'.

    Raises:
      UserError: the file is invalid.
    """
    try:
        yield
    except Refused as refused:
        raise UserError(f"the weight file {str(path)!r} {refused}.") from None
    except (*DAMAGE, zlib.error):
        raise UserError(f"the weight file {str(path)!r} is truncated, damaged, or not {kind}.") from None


def check_expansion(num_bytes: int, file_bytes: int) -> None:
    """Checks that compressed values of a file of `file_bytes` take at most `MOST_EXPANSION` times as many bytes.

    Raises:
      Refused: they take more than that.
    """
    if num_bytes > MOST_EXPANSION * file_bytes:
        refuse(
            f"declares {num_bytes:,} bytes of values in {file_bytes:,} bytes, more than {MOST_EXPANSION} times its size"
        )
