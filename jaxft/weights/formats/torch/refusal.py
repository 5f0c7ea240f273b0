"""Errors for invalid PyTorch files: one sentence each, which names the file."""

import contextlib
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from jaxft.core.errors import UserError
from jaxft.core.text import cut_off

DAMAGE = (ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, OSError, RecursionError,
          RuntimeError, TypeError, ValueError, struct.error, zipfile.BadZipFile)  # fmt: skip


class Refused(Exception):
    """An invalid file; the argument is the end of a sentence that starts with the name of the file."""


@contextlib.contextmanager
def explained_read_errors(path: str | Path) -> Iterator[None]:
    """Converts each exception that an invalid file can cause into a `UserError` that names the file.

    Raises:
      UserError: the file is invalid.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the strings of a pickle
            yield
    except Refused as refused:
        raise UserError(f"the weight file {str(path)!r} {refused}.") from None
    except DAMAGE:
        raise UserError(f"the weight file {str(path)!r} is truncated, damaged, or not from torch.save.") from None


def refuse(problem: str) -> NoReturn:
    """Raises the error for an invalid file.

    Raises:
      Refused: always.
    """
    raise Refused(problem)


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
