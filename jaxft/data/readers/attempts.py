"""One task for many items over all cores, and why it fails for some of them."""

import concurrent.futures
import contextlib
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxft.core import interrupts
from jaxft.core.devices import num_cores
from jaxft.core.text import cut_off

AT_ONCE = 1024  # items that wait for a thread

RUN = 16  # items that a thread does at a time: to hand over one takes as long as to read it

REASON_CHARACTERS = 90

FAILURES = (OSError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, MemoryError)


def try_each(
    task: Callable[[Any], Any], items: Sequence[Any], on_done: Callable[[int], None] = lambda done: None
) -> list[tuple[Any, str | None]]:
    """Returns the task's result for every item, worked out over all cores, or (None, why there is none).

    `on_done` is called with how many are done, now and then.
    """

    def attempt(item: Any) -> tuple[Any, str | None]:
        try:
            return task(item), None
        except FAILURES as error:
            return None, reason_of(error)

    def attempt_all(run: Sequence[Any]) -> list[tuple[Any, str | None]]:
        return [attempt(item) for item in run]

    results: list[tuple[Any, str | None]] = []
    with no_warnings(), concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
        for begin in range(0, len(items), AT_ONCE):
            interrupts.check()
            at_once = items[begin : begin + AT_ONCE]
            for done in pool.map(attempt_all, [at_once[i : i + RUN] for i in range(0, len(at_once), RUN)]):
                results += done
            on_done(len(results))
    return results


@contextlib.contextmanager
def no_warnings() -> Iterator[None]:
    """Ignores what Pillow warns of, in all threads; `decode` refuses what is too large, and what is odd is no failure.

    The filters are the process's, so that they are set around the threads and not in them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Image size .* exceeds limit")
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def reason_of(error: BaseException) -> str:
    """Returns why something failed, in a few words."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return cut_off(reason, REASON_CHARACTERS)
