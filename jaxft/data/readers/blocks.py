"""Decoding of images in threads, in blocks."""

import collections
import concurrent.futures
import time
from collections.abc import Callable, Iterator

import numpy as np

from jaxft.core import interrupts
from jaxft.core.devices import num_cores
from jaxft.core.events import ImagesDecoded, Listener
from jaxft.data.readers.attempts import no_warnings, reason_of

BLOCK = 256  # maximum number of images of a block
BLOCK_BYTES = 1 << 24  # maximum size of a block of more than one image
RUN = 8  # images per job of a thread

Bad = dict[int, str]  # the reason of each image that cannot be decoded, by the number of the image


class Blocks:
    """Images that threads decode in blocks, two blocks in advance.

    Args:
      count: number of images.
      size: side of the images, in pixels.
      make: returns the image of a number, [size, size, 3] uint8. Several threads call it.
      name: name of the images in messages.
      emit: receives progress events.
    """

    def __init__(self, count: int, size: int, make: Callable[[int], np.ndarray], name: str, emit: Listener):
        self.count, self.size, self.make, self.name, self.emit = count, size, make, name, emit
        self.image_bytes = size * size * 3

    def decoded(self, first: int) -> Iterator[tuple[int, np.ndarray, Bad]]:
        """Yields (stop, images [good, size, size, 3] uint8, bad) of each block, in order.

        A block covers the images from the end of the previous block, or from `first`, to `stop` - 1. `images` has the
        images that could be decoded, and `bad` the reasons of the others.
        """
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
            except Exception as error:  # decoders raise many classes, and one image must not end the command
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
        seconds_left = (time.monotonic() - started) / (stop - first) * (self.count - stop)
        self.emit(ImagesDecoded(self.name, stop, self.count, seconds_left))
        if bad:
            images = np.delete(images, [number - start for number in bad], axis=0)
        return stop, images, bad

    def in_memory(self) -> tuple[np.ndarray, Bad]:
        """Returns all images [good, size, size, 3] uint8 in memory, and the reasons of the bad ones."""
        blocks = list(self.decoded(0))
        return np.concatenate([images for _, images, _ in blocks]), {
            number: why for _, _, bad in blocks for number, why in bad.items()
        }
