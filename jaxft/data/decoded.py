"""Images made once and kept as a memory map in the cache folder, block by block, so that a killed process goes on.

images/<fingerprint>.npy       [kept, size, size, 3] uint8
images/<fingerprint>.json      which could not be made, and why; there only where there are any
images/<fingerprint>.part      the same file as it grows
images/<fingerprint>.journal   a line for each block in it: how far it goes, its checksum, what could not be made
images/<fingerprint>.lock      there while a process makes them
"""

import collections
import concurrent.futures
import contextlib
import io
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxft import stopping
from jaxft.clock import duration
from jaxft.data.pictures import FAILURES, no_warnings, shortened
from jaxft.errors import UserError
from jaxft.store import cache_dir, locked, replacing

BLOCK = 256  # images, at most
BLOCK_BYTES = 1 << 24
RUN = 8  # images that a thread makes at a time
MOST_UNKEPT_BYTES = 2e9  # in memory, where the cache folder cannot be written
Say = Callable[[str], None]
Bad = dict[int, str]


def decoded(
    fingerprint: str, count: int, size: int, make: Callable[[int], np.ndarray], what: str, say: Say
) -> tuple[np.ndarray, Bad]:
    """Returns ([kept, size, size, 3] uint8, {number: why it could not be made}) for the images 0 to `count` - 1.

    They are read from the cache, or made over all cores and kept there. A cache that cannot be written costs time,
    nothing else.

    Args:
      fingerprint: what identifies all of them.
      make: returns the image of a number, [size, size, 3] uint8; called from several threads.
      what: names them to people.
      say: told how far it is.

    Raises a `UserError` where they cannot be kept and take too much memory, `stopping.Stopped` where the process was
    told to end.
    """
    kept = cache_dir() / "images" / f"{fingerprint}.npy"
    found = _read(kept, count, size)
    if found is not None:
        return found
    blocks = _Blocks(count, size, make, what, say)
    try:
        with contextlib.ExitStack() as stack:
            lock = kept.with_suffix(".lock")
            if not stack.enter_context(locked(lock, wait=False)):
                say(f"waiting for another process that decodes {what}")
                stack.enter_context(locked(lock))
            return _read(kept, count, size) or _write(kept, blocks)
    except OSError as error:
        if count * size * size * 3 > MOST_UNKEPT_BYTES:
            reason = os.strerror(error.errno or 0).lower()
            raise UserError(
                f"the images of {what} cannot be kept in {str(kept.parent)!r} ({reason}); "
                "make room there, or name another folder in $JAXFT_CACHE."
            ) from None
        return blocks.in_memory()


def _read(path: Path, count: int, size: int) -> tuple[np.ndarray, Bad] | None:
    """Returns what is kept, or None where it is not there, or not whole."""
    with contextlib.suppress(OSError, ValueError, EOFError, AttributeError):
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        bad = {}
        if len(images) < count:
            bad = {int(i): str(why) for i, why in json.loads(path.with_suffix(".json").read_bytes()).items()}
        if images.shape == (count - len(bad), size, size, 3) and images.dtype == np.uint8:
            return images, bad
    return None


def _write(path: Path, blocks: "_Blocks") -> tuple[np.ndarray, Bad]:
    part, journal = path.with_suffix(".part"), path.with_suffix(".journal")
    with part.open("a+b") as pixels, journal.open("a+b") as lines:
        done, bad = _resume(pixels, lines, blocks)
        for stop, images, problems in blocks.made(done):
            pixels.write(images.data)
            pixels.flush()
            bad |= problems
            lines.write(json.dumps({"stop": stop, "crc": zlib.crc32(images.data), "bad": problems}).encode() + b"\n")
            lines.flush()
        os.fsync(pixels.fileno())
    with part.open("r+b") as pixels:
        pixels.write(_header(blocks.count - len(bad), blocks.size))
        os.fsync(pixels.fileno())
    if bad:
        with replacing(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(bad))
    part.replace(path)
    journal.unlink()
    found = _read(path, blocks.count, blocks.size)
    if found is None:
        raise OSError("what was kept is not there")
    return found


def _resume(pixels: Any, lines: Any, blocks: "_Blocks") -> tuple[int, Bad]:
    """Returns (images done, bad ones among them), after cutting off what no line of the journal holds."""
    done, end, of_journal = 0, len(_header(blocks.count, blocks.size)), 0
    bad: Bad = {}
    lines.seek(0)
    pixels.seek(end)
    for line in lines:
        try:
            entry = json.loads(line)
            problems = {int(i): str(why) for i, why in entry["bad"].items()}
            images = pixels.read((entry["stop"] - done - len(problems)) * blocks.image_bytes)
            if not line.endswith(b"\n") or zlib.crc32(images) != entry["crc"]:
                break
        except (ValueError, KeyError, TypeError):
            break
        done, bad, end, of_journal = entry["stop"], bad | problems, end + len(images), of_journal + len(line)
    pixels.truncate(end)
    lines.truncate(of_journal)
    if not done:
        pixels.truncate(0)
        pixels.write(_header(blocks.count, blocks.size))
    return done, bad


def _header(count: int, size: int) -> bytes:
    """Returns the first bytes of an .npy file, as many whatever the count: NumPy leaves room for it."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    )
    return header.getvalue()


class _Blocks:
    """Images in blocks, made in threads, two blocks ahead of who takes them."""

    def __init__(self, count: int, size: int, make: Callable[[int], np.ndarray], what: str, say: Say):
        self.count, self.size, self.make, self.what, self.say = count, size, make, what, say
        self.image_bytes = size * size * 3

    def made(self, first: int) -> Iterator[tuple[int, np.ndarray, Bad]]:
        """Yields (the number after the block's last, its images but for the bad ones, these), in order from `first`."""
        length = max(min(BLOCK, BLOCK_BYTES // self.image_bytes), 1)
        started = time.monotonic()
        ahead: collections.deque[tuple[int, np.ndarray, list[concurrent.futures.Future[Bad]]]] = collections.deque()
        with no_warnings(), concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
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
                bad[number] = shortened(error)
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
        stopping.check()
        stop = start + len(images)
        left = (time.monotonic() - started) / (stop - first) * (self.count - stop)
        self.say(f"decoding {self.what}: {stop:,} of {self.count:,}, {duration(left)} left")
        if bad:
            images = np.delete(images, [number - start for number in bad], axis=0)
        return stop, images, bad

    def in_memory(self) -> tuple[np.ndarray, Bad]:
        """Returns all images that could be made, kept nowhere."""
        made = list(self.made(0))
        return np.concatenate([images for _, images, _ in made]), {
            n: why for _, _, bad in made for n, why in bad.items()
        }
