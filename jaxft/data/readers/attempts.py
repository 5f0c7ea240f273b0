"""A task applied to many items on all cores, with the reason of each failure."""

import concurrent.futures
import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxft.core import interrupts
from jaxft.core.devices import num_cores
from jaxft.core.text import cut_off

BATCH = 1024  # items that are submitted together, between two checks for an interrupt

RUN = 16  # items per job of a thread, because submitting one job takes as long as reading one item

REASON_CHARACTERS = 90  # maximum length of the reason of a failure


def try_each(
    task: Callable[[Any], Any], items: Sequence[Any], on_done: Callable[[int], None] = lambda done: None
) -> list[tuple[Any, str | None]]:
    """Returns (result, None) for each item, or (None, reason) if the task failed. The task runs on all cores.

    Args:
      task: a function of one item that several threads may call.
      items: the items.
      on_done: receives the number of finished items after every 1,024 items.
    """

    def attempt(item: Any) -> tuple[Any, str | None]:
        try:
            return task(item), None
        except Exception as error:  # decoders raise many classes, and one image must not end the command
            return None, reason_of(error)

    def attempt_all(run: Sequence[Any]) -> list[tuple[Any, str | None]]:
        return [attempt(item) for item in run]

    results: list[tuple[Any, str | None]] = []
    with no_warnings(), concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
        for begin in range(0, len(items), BATCH):
            interrupts.check()
            batch = items[begin : begin + BATCH]
            for run_results in pool.map(attempt_all, [batch[i : i + RUN] for i in range(0, len(batch), RUN)]):
                results += run_results
            on_done(len(results))
    return results


@contextlib.contextmanager
def no_warnings() -> Iterator[None]:
    """Ignores the warnings of Pillow in all threads. `decode` rejects large images itself.

    Warning filters belong to the process, so they are set around the threads and not inside them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Image size .* exceeds limit")
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def reason_of(error: BaseException) -> str:
    """Returns the message of an error on one line, cut to 90 characters, or the name of its class."""
    if isinstance(error, MemoryError):
        return "it needs more memory than is available"
    reason = " ".join(str(error).split()) or type(error).__name__
    return cut_off(reason, REASON_CHARACTERS)
