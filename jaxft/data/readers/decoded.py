"""Images made once and kept as a memory map in the cache folder, block by block, so that a killed process goes on.

images/<fingerprint>.npy       [kept, size, size, 3] uint8; the lines of the journal follow the pixels
images/<fingerprint>.part      the same file as it grows
images/<fingerprint>.journal   a line for each block: where it ends, which images could not be made, its checksum
images/<fingerprint>.lock      there while a process makes them

Every block is compared with its checksum each time the file is opened, before a pixel is used. The checksum is CRC-32:
it finds every error of up to 32 adjacent bits, and misses other damage with a probability of 2^-32 a block. It runs at
4 GB/s a core, four times as fast as SHA-256. Whoever could forge a block could write its checksum too, so that a
cryptographic hash would find no more.
"""

import concurrent.futures
import contextlib
import io
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxft.core import interrupts
from jaxft.core.cache import cache_dir
from jaxft.core.devices import num_cores
from jaxft.core.errors import UserError
from jaxft.core.events import ImagesVerified, Listener, Waiting, Warned
from jaxft.core.locks import locked
from jaxft.data.readers.blocks import Bad, Blocks

PIECE_BYTES = 1 << 18  # read at a time to check a block, so that it stays in a core's cache
MOST_UNKEPT_BYTES = 2e9  # in memory, where the cache folder cannot be written


def decoded(
    fingerprint: str, count: int, size: int, make: Callable[[int], np.ndarray], what: str, emit: Listener
) -> tuple[np.ndarray, Bad]:
    """Returns ([kept, size, size, 3] uint8, {number: why it could not be made}) for the images 0 to `count` - 1.

    They are read from the cache, or made over all cores and kept there. Images in the cache that are damaged are made
    again. A cache that cannot be written costs time, nothing else.

    Args:
      fingerprint: what identifies all of them.
      make: returns the image of a number, [size, size, 3] uint8; called from several threads.
      what: names them to people.
      emit: hears how far it is, and warnings about what is damaged.

    Raises a `UserError` where they cannot be kept and take too much memory, `interrupts.Stopped` where the process was
    told to end.
    """
    kept = cache_dir() / "images" / f"{fingerprint}.npy"
    blocks = Blocks(count, size, make, what, emit)
    cached = _read(kept, blocks)
    if cached is not None and cached.is_whole:
        return cached.images, cached.bad
    if cached is not None:
        damaged = count - sum(entry.stop - entry.start for entry in cached.entries)
        emit(
            Warned(
                f"{damaged:,} of the {count:,} images of {what} in {str(kept)!r} do not match their checksums, or have "
                "none; they are made again"
            )
        )
    try:
        with contextlib.ExitStack() as stack:
            lock = kept.with_suffix(".lock")
            if not stack.enter_context(locked(lock, wait=False)):
                emit(Waiting(f"another process that decodes {what}"))
                stack.enter_context(locked(lock))
            cached = _read(kept, blocks)  # who had the lock before may have made them
            if cached is not None and cached.is_whole:
                return cached.images, cached.bad
            return _write(kept, blocks if cached is None else _completing(cached, blocks))
    except OSError as error:
        if count * size * size * 3 > MOST_UNKEPT_BYTES:
            reason = os.strerror(error.errno or 0).lower()
            raise UserError(
                f"the images of {what} cannot be kept in {str(kept.parent)!r} ({reason}); "
                "make room there, or name another folder in $JAXFT_CACHE."
            ) from None
        return blocks.in_memory()


@dataclass(frozen=True)
class _Entry:
    """A line of the journal: the images `start` to `stop` - 1 but for the bad ones, and the place of their pixels."""

    start: int
    stop: int
    bad: Bad
    checksum: int
    offset: int
    num_bytes: int
    line: bytes

    def matches(self, handle: int) -> bool:
        """Returns whether the pixels in an open file are those whose checksum this is."""
        checksum, end = _checksum_of_line(self.start, self.stop, self.bad), self.offset + self.num_bytes
        with contextlib.suppress(OSError):
            for begin in range(self.offset, end, PIECE_BYTES):
                checksum = zlib.crc32(os.pread(handle, min(PIECE_BYTES, end - begin), begin), checksum)
            return checksum == self.checksum
        return False


@dataclass(frozen=True)
class _Kept:
    """A finished file: a map of its images, and those entries of its journal that match."""

    images: np.ndarray
    entries: list[_Entry]
    is_whole: bool

    @property
    def bad(self) -> Bad:
        return {number: why for entry in self.entries for number, why in entry.bad.items()}


def _read(path: Path, blocks: "Blocks") -> _Kept | None:
    """Returns what is kept, checked, or None if there is no file."""
    try:
        with path.open("rb") as file:
            empty = _header(0, blocks.size)
            header = file.read(len(empty))
            match = re.search(rb"'shape': \((\d+),", header)
            num_kept = min(int(match[1]), blocks.count) if match else 0
            end = len(empty) + num_kept * blocks.image_bytes
            if header != _header(num_kept, blocks.size) or os.fstat(file.fileno()).st_size < end:
                return _Kept(np.empty(0), [], is_whole=False)
            images = _map(file, num_kept, blocks.size)
            file.seek(end)
            entries = _entries(file, blocks)
            matching = list(_matching(file.fileno(), entries, blocks))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return _Kept(np.empty(0), [], is_whole=False)
    done = sum(entry.stop - entry.start for entry in matching)
    return _Kept(images, matching, done == blocks.count and sum(entry.num_bytes for entry in matching) == images.nbytes)


def _entries(lines: Iterable[bytes], blocks: "Blocks") -> list[_Entry]:
    """Returns what the lines of a journal say, up to the first that cannot be read."""
    entries: list[_Entry] = []
    start, offset = 0, len(_header(0, blocks.size))
    for line in lines:
        try:
            fields = json.loads(line)
            stop, checksum = int(fields["stop"]), int(fields["crc"])
            bad = {int(number): str(why) for number, why in fields["bad"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            break
        num_bytes = (stop - start - len(bad)) * blocks.image_bytes
        if not (line.endswith(b"\n") and start < stop <= blocks.count and num_bytes >= 0):
            break
        entries.append(_Entry(start, stop, bad, checksum, offset, num_bytes, line))
        start, offset = stop, offset + num_bytes
    return entries


def _matching(handle: int, entries: list[_Entry], blocks: "Blocks") -> Iterator[_Entry]:
    """Yields the entries that match the pixels in an open file, which are read over all cores."""
    emitted = time.monotonic()
    pool = concurrent.futures.ThreadPoolExecutor(num_cores())
    try:
        for entry, matches in zip(entries, pool.map(lambda entry: entry.matches(handle), entries)):
            interrupts.check()
            if time.monotonic() - emitted > 1:
                blocks.emit(ImagesVerified(blocks.what, entry.stop, blocks.count))
                emitted = time.monotonic()
            if matches:
                yield entry
    finally:
        pool.shutdown(cancel_futures=True)


def _checksum_of_line(start: int, stop: int, bad: Bad) -> int:
    """Returns the checksum of what a line of the journal says, from which that of the block's pixels goes on."""
    return zlib.crc32(json.dumps([start, stop, sorted(bad.items())]).encode())


def _completing(cached: _Kept, blocks: "Blocks") -> "Blocks":
    """Returns blocks of which images that are kept and match are copied, and the others made."""
    row_of = np.full(blocks.count, -1)
    header_bytes = len(_header(0, blocks.size))
    for entry in cached.entries:
        numbers = [number for number in range(entry.start, entry.stop) if number not in entry.bad]
        row_of[numbers] = np.arange(len(numbers)) + (entry.offset - header_bytes) // blocks.image_bytes

    def copy_or_make(number: int) -> np.ndarray:
        return cached.images[row_of[number]] if row_of[number] >= 0 else blocks.make(number)

    return Blocks(blocks.count, blocks.size, copy_or_make, blocks.what, blocks.emit)


def _write(path: Path, blocks: "Blocks") -> tuple[np.ndarray, Bad]:
    part, journal = path.with_suffix(".part"), path.with_suffix(".journal")
    with part.open("a+b") as pixels, journal.open("a+b") as lines:
        done, bad = _resume(pixels, lines, blocks)
        start = done
        for stop, images, problems in blocks.made(done):
            pixels.write(images.data)
            pixels.flush()
            bad |= problems
            checksum = zlib.crc32(images.data, _checksum_of_line(start, stop, problems))
            lines.write(json.dumps({"stop": stop, "crc": checksum, "bad": problems}).encode() + b"\n")
            lines.flush()
            start = stop
        lines.seek(0)
        shutil.copyfileobj(lines, pixels)
        pixels.flush()
        os.fsync(pixels.fileno())
    with part.open("r+b") as pixels:
        pixels.write(_header(blocks.count - len(bad), blocks.size))
        pixels.flush()
        os.fsync(pixels.fileno())
    part.replace(path)
    journal.unlink()
    return _map(path, blocks.count - len(bad), blocks.size), bad


def _resume(pixels: Any, lines: Any, blocks: "Blocks") -> tuple[int, Bad]:
    """Returns (images done, bad ones among them), after cutting off what no line of the journal holds."""
    lines.seek(0)
    entries = _entries(lines, blocks)
    matching = list(_matching(pixels.fileno(), entries, blocks))
    usable = [entry for entry, match in zip(entries, matching) if entry is match]  # those before the first damaged one
    lines.truncate(sum(len(entry.line) for entry in usable))
    if not usable:
        pixels.truncate(0)
        pixels.write(_header(blocks.count, blocks.size))
        return 0, {}
    pixels.truncate(usable[-1].offset + usable[-1].num_bytes)
    return usable[-1].stop, {number: why for entry in usable for number, why in entry.bad.items()}


def _map(file: Path | IO[bytes], num_kept: int, size: int) -> np.ndarray:
    return np.memmap(file, np.uint8, "r", len(_header(num_kept, size)), (num_kept, size, size, 3))


def _header(count: int, size: int) -> bytes:
    """Returns the first bytes of an .npy file, as many whatever the count: NumPy leaves room for it."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    )
    return header.getvalue()
