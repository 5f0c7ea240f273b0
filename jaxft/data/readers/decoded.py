"""Cache of decoded images: a memory map in the cache folder, written block by block, so a killed process can resume.

images/<fingerprint>.npy       [good, size, size, 3] uint8, followed by the lines of the journal
images/<fingerprint>.part      the same file while it grows
images/<fingerprint>.journal   one line per block: its end, the images that could not be decoded, its checksum
images/<fingerprint>.lock      the lock of the process that decodes

Each time a file is opened, every block is compared with its checksum before a pixel is used. The checksum is CRC-32. It
detects every error of up to 32 adjacent bits, and misses other damage with a probability of 2^-32 per block. It
processes 4 GB/s per core, four times as fast as SHA-256. A cryptographic hash would not be safer here, because an
attacker who can forge a block can also write its checksum.
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
from jaxft.core.text import byte_size
from jaxft.data.readers.blocks import Bad, Blocks

READ_BYTES = 1 << 18  # read at a time to verify a block; fits in the cache of a core
MAX_UNCACHED_BYTES = 2e9  # of images in memory, if the cache folder is not writable


def decoded(
    fingerprint: str, count: int, size: int, make: Callable[[int], np.ndarray], name: str, emit: Listener
) -> tuple[np.ndarray, Bad]:
    """Returns the decoded images [good, size, size, 3] uint8, and the reasons of the bad ones by their numbers.

    The images come from the cache. If they are not cached, all cores decode them into the cache. Damaged blocks of the
    cache are decoded again. If the cache folder is not writable, the images are decoded into memory.

    Args:
      fingerprint: identifies the images.
      count: number of images.
      size: side of the images, in pixels.
      make: returns the image of a number from 0 to `count` - 1, [size, size, 3] uint8. Several threads call it.
      name: name of the images in messages.
      emit: receives progress events and warnings about damaged blocks.

    Raises:
      UserError: the images do not fit into the cache folder, or it is not writable and they exceed
        `MAX_UNCACHED_BYTES`.
      interrupts.Stopped: the user stops the process.
    """
    path = cache_dir() / "images" / f"{fingerprint}.npy"
    blocks = Blocks(count, size, make, name, emit)
    cached = _read(path, blocks)
    if cached is not None and cached.is_complete:
        return cached.images, cached.bad
    if cached is not None:
        damaged = count - sum(entry.stop - entry.start for entry in cached.entries)
        emit(
            Warned(
                f"{damaged:,} of the {count:,} images of {name} in {str(path)!r} do not match their checksums or have "
                "no checksum; jaxft decodes them again"
            )
        )
    try:
        with contextlib.ExitStack() as stack:
            lock = path.with_suffix(".lock")
            if not stack.enter_context(locked(lock, wait=False)):
                emit(Waiting(f"another process that decodes {name}"))
                stack.enter_context(locked(lock))
            cached = _read(path, blocks)  # another process may have written it before it released the lock
            if cached is not None and cached.is_complete:
                return cached.images, cached.bad
            _check_space(path, count, size, name)
            return _write(path, blocks if cached is None else _reuse(cached, blocks))
    except OSError as error:
        if count * size * size * 3 > MAX_UNCACHED_BYTES:
            reason = os.strerror(error.errno or 0).lower()
            raise UserError(
                f"the decoded images of {name} cannot be written to {str(path.parent)!r} ({reason}); "
                "free disk space there, or set $JAXFT_CACHE to another folder."
            ) from None
        return blocks.in_memory()


def _check_space(path: Path, count: int, size: int, name: str) -> None:
    """Raises a `UserError` if the disk is too small for the decoded images; a file that another run began counts."""
    begun = sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*"))
    needed, free = count * size * size * 3, shutil.disk_usage(path.parent).free + begun
    if needed > free:
        raise UserError(
            f"{count:,} images of {name} at {size} px need {byte_size(needed)}, but the disk of {str(path.parent)!r} "
            f"has only {byte_size(free)} left; lower 'size_px', or set $JAXFT_CACHE to a folder on a larger disk."
        )


@dataclass(frozen=True)
class _Entry:
    """A line of the journal.

    Attributes:
      start, stop: the block covers the images `start` to `stop` - 1.
      bad: the images of the block that could not be decoded, with the reasons.
      checksum: CRC-32 of the line's content and the pixels.
      offset, num_bytes: position and size of the pixels in the file, in bytes.
      line: the line as written.
    """

    start: int
    stop: int
    bad: Bad
    checksum: int
    offset: int
    num_bytes: int
    line: bytes

    def matches(self, handle: int) -> bool:
        """Returns whether the pixels in the open file `handle` match the checksum."""
        checksum, end = _checksum_of_line(self.start, self.stop, self.bad), self.offset + self.num_bytes
        with contextlib.suppress(OSError):
            for begin in range(self.offset, end, READ_BYTES):
                checksum = zlib.crc32(os.pread(handle, min(READ_BYTES, end - begin), begin), checksum)
            return checksum == self.checksum
        return False


@dataclass(frozen=True)
class _CachedFile:
    """A finished file: a memory map of its images, and the journal entries that match their checksums."""

    images: np.ndarray
    entries: list[_Entry]
    is_complete: bool

    @property
    def bad(self) -> Bad:
        return {number: why for entry in self.entries for number, why in entry.bad.items()}


def _read(path: Path, blocks: "Blocks") -> _CachedFile | None:
    """Returns the cached file with its verified entries, or None if the file does not exist."""
    try:
        with path.open("rb") as file:
            empty = _header(0, blocks.size)
            header = file.read(len(empty))
            match = re.search(rb"'shape': \((\d+),", header)
            num_images = min(int(match[1]), blocks.count) if match else 0
            end = len(empty) + num_images * blocks.image_bytes
            if header != _header(num_images, blocks.size) or os.fstat(file.fileno()).st_size < end:
                return _CachedFile(np.empty(0), [], is_complete=False)
            images = _map(file, num_images, blocks.size)
            file.seek(end)
            entries = _entries(file, blocks)
            matching = list(_matching(file.fileno(), entries, blocks))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return _CachedFile(np.empty(0), [], is_complete=False)
    done = sum(entry.stop - entry.start for entry in matching)
    return _CachedFile(
        images, matching, done == blocks.count and sum(entry.num_bytes for entry in matching) == images.nbytes
    )


def _entries(lines: Iterable[bytes], blocks: "Blocks") -> list[_Entry]:
    """Returns the entries of a journal, up to the first unreadable line."""
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
    """Yields the entries that match the pixels in the open file `handle`. All cores verify them."""
    emitted = time.monotonic()
    pool = concurrent.futures.ThreadPoolExecutor(num_cores())
    try:
        for entry, matches in zip(entries, pool.map(lambda entry: entry.matches(handle), entries)):
            interrupts.check()
            if time.monotonic() - emitted > 1:
                blocks.emit(ImagesVerified(blocks.name, entry.stop, blocks.count))
                emitted = time.monotonic()
            if matches:
                yield entry
    finally:
        pool.shutdown(cancel_futures=True)


def _checksum_of_line(start: int, stop: int, bad: Bad) -> int:
    """Returns the CRC-32 of the content of a journal line, the start value for the checksum of the pixels."""
    return zlib.crc32(json.dumps([start, stop, sorted(bad.items())]).encode())


def _reuse(cached: _CachedFile, blocks: "Blocks") -> "Blocks":
    """Returns blocks that copy the verified images of the cached file and decode only the others."""
    row_of = np.full(blocks.count, -1)
    header_bytes = len(_header(0, blocks.size))
    for entry in cached.entries:
        numbers = [number for number in range(entry.start, entry.stop) if number not in entry.bad]
        row_of[numbers] = np.arange(len(numbers)) + (entry.offset - header_bytes) // blocks.image_bytes

    def copy_or_decode(number: int) -> np.ndarray:
        return cached.images[row_of[number]] if row_of[number] >= 0 else blocks.make(number)

    return Blocks(blocks.count, blocks.size, copy_or_decode, blocks.name, blocks.emit)


def _write(path: Path, blocks: "Blocks") -> tuple[np.ndarray, Bad]:
    """Decodes the blocks into the file `path`; returns a memory map of the images and the reasons of the bad ones."""
    part, journal = path.with_suffix(".part"), path.with_suffix(".journal")
    with part.open("a+b") as pixels, journal.open("a+b") as lines:
        done, bad = _resume(pixels, lines, blocks)
        start = done
        for stop, images, bad_in_block in blocks.decoded(done):
            pixels.write(images.data)
            pixels.flush()
            bad |= bad_in_block
            checksum = zlib.crc32(images.data, _checksum_of_line(start, stop, bad_in_block))
            lines.write(json.dumps({"stop": stop, "crc": checksum, "bad": bad_in_block}).encode() + b"\n")
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
    """Truncates both files after the last valid block; returns the number of finished images and the bad ones."""
    lines.seek(0)
    entries = _entries(lines, blocks)
    matching = list(_matching(pixels.fileno(), entries, blocks))
    usable = [entry for entry, match in zip(entries, matching) if entry is match]  # up to the first damaged block
    lines.truncate(sum(len(entry.line) for entry in usable))
    if not usable:
        pixels.truncate(0)
        pixels.write(_header(blocks.count, blocks.size))
        return 0, {}
    pixels.truncate(usable[-1].offset + usable[-1].num_bytes)
    return usable[-1].stop, {number: why for entry in usable for number, why in entry.bad.items()}


def _map(file: Path | IO[bytes], num_images: int, size: int) -> np.ndarray:
    return np.memmap(file, np.uint8, "r", len(_header(num_images, size)), (num_images, size, size, 3))


def _header(count: int, size: int) -> bytes:
    """Returns the header of an .npy file. Its length does not depend on the count, because NumPy pads it."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    )
    return header.getvalue()
