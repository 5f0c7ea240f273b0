"""Printing to the terminal. Names of classes, files and tensors are data, so they are printed without control codes."""

import sys

from jaxft.core.text import escaped


def print_lines(*lines: str, to_stderr: bool = False) -> None:
    """Prints lines to standard output or standard error.

    Characters that cannot be printed, or that the encoding of the terminal lacks, are printed as escape sequences. This
    includes line breaks, so each line must be an argument of its own.
    """
    file = sys.stderr if to_stderr else sys.stdout
    encoding = file.encoding or "utf-8"
    for line in lines:
        print(escaped(line).encode(encoding, "backslashreplace").decode(encoding), file=file, flush=to_stderr)
