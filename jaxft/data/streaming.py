"""Images that take more memory than a device has for them: those of some steps at a time are brought to it.

Where in the whole set an image is stays its number, on the host and on the device, so that a step that reads from a
`Window` is the step that reads from an array of all images. Which images a window holds follows from the steps alone:
training goes on from any step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxft.core.errors import UserError
from jaxft.core.text import byte_size

WINDOW_BYTES = 64e6  # of images brought to the device at once, or the images of one step
AHEAD = 2  # windows that are read while one is worked with


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Window:
    """Some of n images, read by their numbers among all of them; what is read for others is not defined.

    Attributes:
      images: [held, h, w, 3] uint8.
      row_of: [n] int32, where in `images` each of all is.
    """

    images: Any
    row_of: Any

    def __len__(self) -> int:
        """Returns the number of all images."""
        return len(self.row_of)

    def __getitem__(self, rows: Any) -> Any:
        """Returns the images of some numbers."""
        return self.images[self.row_of[rows]]


class Stream:
    """Images [n, h, w, 3] uint8 on the host, such as a memory map, of which windows go to the device.

    Raises a `UserError` where the extra that reads ahead is not installed.
    """

    def __init__(self, images: np.ndarray):
        try:
            import grain  # noqa: F401 - so that it is said before anything is trained
        except ImportError:
            raise UserError(
                f"the images take {byte_size(images.nbytes)}, more than 'execution.device_data_bytes'; to stream "
                "them: pip install 'jaxft[stream]'."
            ) from None
        self.images = images

    def __len__(self) -> int:
        """Returns the number of all images."""
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns [n, h, w, 3]."""
        return self.images.shape

    def window(self, rows: np.ndarray, held: int) -> Window:
        """Returns a window with the images of `rows`, of any shape, and room for `held` of them."""
        needed = np.unique(rows)  # ascending, as they lie on the disk
        images = np.zeros((held, *self.shape[1:]), np.uint8)
        images[: len(needed)] = self.images[needed]
        row_of = np.zeros(len(self), np.int32)
        row_of[needed] = np.arange(len(needed), dtype=np.int32)
        return Window(images, row_of)

    def windows(self, rows_of: Callable[[int], np.ndarray], held: int, first: int, count: int) -> Iterator[Window]:
        """Yields the windows `first` to `count` - 1, those after it being read meanwhile."""
        import grain

        windows = grain.MapDataset.range(first, count).map(lambda number: self.window(rows_of(int(number)), held))
        yield from windows.to_iter_dataset(grain.ReadOptions(num_threads=AHEAD, prefetch_buffer_size=AHEAD))


Pixels = jax.Array | Stream


def brought(images: np.ndarray, most_bytes: float) -> Pixels:
    """Returns images on the device, or a stream of those that take more than `most_bytes`."""
    return Stream(images) if images.nbytes > most_bytes else jax.numpy.asarray(images)


def steps_of_window(images: Stream, images_a_step: int) -> int:
    """Returns how many steps a window serves."""
    return max(int(WINDOW_BYTES // (images_a_step * int(np.prod(images.shape[1:])))), 1)


def at_hand(images: Pixels, rows: np.ndarray) -> Any:
    """Returns images of which those of `rows` can be read on the device."""
    return images.window(rows, rows.size) if isinstance(images, Stream) else images


class Windows:
    """The windows of steps, of which each reads `rows: [trials, steps, batch]`; `put` brings one to the device."""

    def __init__(self, images: Stream, rows: np.ndarray, put: Callable[[Any], Any]):
        self.images, self.rows, self.put = images, rows, put
        trials, self.num_steps, batch = rows.shape
        self.length = steps_of_window(images, trials * batch)
        self.held = min(self.length * trials * batch, len(images))
        self._open: tuple[int, Any] = (-1, None)
        self._ahead: Iterator[Window] = iter(())
        self._next = -1

    def at(self, step: int) -> tuple[Any, int]:
        """Returns the window of a step, on the device, and how many steps from it on it serves."""
        number = step // self.length
        if number != self._open[0]:
            if number != self._next:
                self._ahead = self.images.windows(self._rows_of, self.held, number, -(-self.num_steps // self.length))
            self._open = number, self.put(next(self._ahead))
            self._next = number + 1
        return self._open[1], (number + 1) * self.length - step

    def _rows_of(self, number: int) -> np.ndarray:
        return self.rows[:, number * self.length : (number + 1) * self.length]
