"""Errors for invalid weight files: one sentence each, which names the file."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from jaxft.core.errors import UserError
from jaxft.core.reading import DAMAGE, Unreadable
from jaxft.core.text import cut_off

MOST_EXPANSION = 100  # largest size of compressed values, as a multiple of the size of the file


class Refused(Exception):
    """An invalid file; the argument is the end of a sentence that starts with the name of the file."""


@contextlib.contextmanager
def explained_damage(path: str | Path, kind: str) -> Iterator[None]:
    """Converts each exception that an invalid file can cause into a `UserError` that names the file.

    Args:
      path: the file.
      kind: what the file should be, such as 'a Keras file'.

    Raises:
      UserError: the file is invalid.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the strings of a pickle
            yield
    except Refused as refused:
        raise UserError(f"the weight file {str(path)!r} {refused}.") from None
    except Unreadable as error:
        raise UserError(f"the weight file {str(path)!r} cannot be read: {error}.") from None
    except UserError:
        raise
    except DAMAGE:
        raise UserError(f"the weight file {str(path)!r} is truncated, damaged, or not {kind}.") from None


def refuse(problem: str) -> NoReturn:
    """Raises the error for an invalid file.

    Raises:
      Refused: always.
    """
    raise Refused(problem)


def check_expansion(num_bytes: int, file_bytes: int) -> None:
    """Checks that compressed values of a file of `file_bytes` take at most `MOST_EXPANSION` times as many bytes.

    Raises:
      Refused: they take more than that.
    """
    if num_bytes > MOST_EXPANSION * file_bytes:
        refuse(
            f"declares {num_bytes:,} bytes of values in {file_bytes:,} bytes, more than {MOST_EXPANSION} times its size"
        )


def refuse_code(name: str) -> NoReturn:
    """Raises the error for a file that refers to a function or class other than those of tensors."""
    refuse(
        f"refers to {printable(name)}, which is code; jaxft reads only tensors: "
        "save only the state dict, or use safetensors"
    )


def printable(text: str) -> str:
    """Returns a text from a file, escaped and cut off for a one-line message."""
    plain = text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
    return cut_off(plain, 80)
