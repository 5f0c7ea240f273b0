"""Errors of a file of torch.save, each one sentence that names the file."""

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
    """What a file does that it must not, as the end of a sentence that begins with the file."""


@contextlib.contextmanager
def explained_read_errors(path: str | Path) -> Iterator[None]:
    """Turns whatever a file can make go wrong into a `UserError` that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in texts that a pickle has
            yield
    except Refused as refused:
        raise UserError(f"the weight file {str(path)!r} {refused}.") from None
    except DAMAGE:
        raise UserError(f"the weight file {str(path)!r} is truncated, damaged, or not from torch.save.") from None


def refuse(what: str) -> NoReturn:
    raise Refused(what)


def refuse_code(name: str) -> NoReturn:
    refuse(
        f"asks for {shown(name)}, which is code; jaxft reads tensors only. Save the state dict alone, or as safetensors"
    )


def shown(text: str) -> str:
    """Returns a text from a file as it can stand in a message of one line."""
    plain = text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
    return cut_off(plain, 80)
