"""Images made in threads, block by block, whatever becomes of them."""

import collections
import concurrent.futures
import time
from collections.abc import Callable, Iterator

import numpy as np

from jaxft.core import interrupts
from jaxft.core.devices import num_cores
from jaxft.core.events import ImagesDecoded, Listener
from jaxft.data.readers.attempts import FAILURES, no_warnings, reason_of

BLOCK = 256  # images, at most
BLOCK_BYTES = 1 << 24
RUN = 8  # images that a thread makes at a time

Bad = dict[int, str]


class Blocks:
    """Images in blocks, made in threads, two blocks ahead of who takes them."""

    def __init__(self, count: int, size: int, make: Callable[[int], np.ndarray], what: str, emit: Listener):
        self.count, self.size, self.make, self.what, self.emit = count, size, make, what, emit
        self.image_bytes = size * size * 3

    def made(self, first: int) -> Iterator[tuple[int, np.ndarray, Bad]]:
        """Yields (the number after the block's last, its images but for the bad ones, these), in order from `first`."""
        length = max(min(BLOCK, BLOCK_BYTES // self.image_bytes), 1)
        started = time.monotonic()
        ahead: collections.deque[tuple[int, np.ndarray, list[concurrent.futures.Future[Bad]]]] = collections.deque()
        with no_warnings(), concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
            try:
                for start in range(first, self.count, length):
                    stop = min(start + length, self.count)
                    images = np.empty((stop - start, self.size, self.size, 3), np.uint8)
                    runs = [
                        pool.submit(self._run, images, start, begin, min(begin + RUN, stop))
                        for begin in range(start, stop, RUN)
                    ]
                    ahead.append((start, images, runs))
                    if len(ahead) > 2:
                        yield self._finished(*ahead.popleft(), first, started)
                while ahead:
                    yield self._finished(*ahead.popleft(), first, started)
            finally:
                pool.shutdown(cancel_futures=True)

    def _run(self, images: np.ndarray, start: int, begin: int, end: int) -> Bad:
        bad = {}
        for number in range(begin, end):
            try:
                images[number - start] = self.make(number)
            except FAILURES as error:
                bad[number] = reason_of(error)
        return bad

    def _finished(
        self,
        start: int,
        images: np.ndarray,
        runs: list[concurrent.futures.Future[Bad]],
        first: int,
        started: float,
    ) -> tuple[int, np.ndarray, Bad]:
        bad = {number: why for run in runs for number, why in run.result().items()}
        interrupts.check()
        stop = start + len(images)
        left = (time.monotonic() - started) / (stop - first) * (self.count - stop)
        self.emit(ImagesDecoded(self.what, stop, self.count, left))
        if bad:
            images = np.delete(images, [number - start for number in bad], axis=0)
        return stop, images, bad

    def in_memory(self) -> tuple[np.ndarray, Bad]:
        """Returns all images that could be made, kept nowhere."""
        made = list(self.made(0))
        return np.concatenate([images for _, images, _ in made]), {
            n: why for _, _, bad in made for n, why in bad.items()
        }
