"""Activations of frozen layers on disk, shared by all processes."""

import contextlib
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxft.core.events import Listener, Waiting, Warned, ignore
from jaxft.core.files import replacing
from jaxft.core.locks import locked

CHECKSUM_BYTES = 4

WRITE_SECONDS = 5.0  # what a killed process may lose

SLACK = 0.05  # of the disk's budget: what may be written before the folder is looked at again

Compute = Callable[[Sequence[int]], Iterable[tuple[int, np.ndarray]]]


class Packs:
    """Blocks in a folder, shared by all processes, within a budget of bytes; files used longest ago are dropped first.

    A file has records of a number and its block, and their checksum, which is compared each time the file is read. A
    file appears whole and may vanish at any time; the blocks of a damaged one are computed again. A folder that cannot
    be written costs time, nothing else.
    """

    def __init__(self, folder: Path, max_bytes: float):
        self.folder, self.max_bytes = folder, max_bytes
        self._room = 0.0  # bytes to write before the folder is looked at
        self._has_warned = False

    def batches(
        self, pack: tuple[str, int], record: np.dtype, numbers: Sequence[int], compute: Compute, emit: Listener
    ) -> dict[int, np.ndarray]:
        """Returns at least the blocks `numbers` of a file; those it lacks are computed by one process at a time."""
        digest, index = pack
        path = self.folder / f"{digest}-{index}.pack"
        batches = self._read(path, record, emit)
        if all(number in batches for number in numbers):
            return batches
        with self._alone(digest, emit):
            batches = self._read(path, record)  # who was alone before may have computed them
            missing = [number for number in numbers if number not in batches]
            written = time.monotonic()
            for number, batch in compute(missing):
                batches[number] = batch
                if number == missing[-1] or time.monotonic() - written > WRITE_SECONDS:
                    self._write(path, record, batches, emit)
                    written = time.monotonic()
        return batches

    @contextlib.contextmanager
    def _alone(self, digest: str, emit: Listener) -> Iterator[None]:
        path = self.folder / f"{digest}.lock"
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                if not stack.enter_context(locked(path, wait=False)):
                    emit(Waiting("another process that computes the same features"))
                    stack.enter_context(locked(path))
            yield

    def _read(self, path: Path, record: np.dtype, emit: Listener = ignore) -> dict[int, np.ndarray]:
        """Returns the blocks in a file, which is now the one used last."""
        try:
            content = memoryview(path.read_bytes())
        except OSError:
            return {}
        content, checksum = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
        if checksum != checksum_of(content, record):
            emit(Warned(f"the features in {str(path)!r} do not match their checksum; they are computed again"))
            return {}
        with contextlib.suppress(OSError):
            os.utime(path)
        records = np.frombuffer(content, record)
        return {number: values.copy() for number, values in zip(records["number"].tolist(), records["values"])}

    def _write(self, path: Path, record: np.dtype, batches: Mapping[int, np.ndarray], emit: Listener) -> None:
        records = np.empty(len(batches), record)
        records["number"] = list(batches)
        for values, batch in zip(records["values"], batches.values()):
            values[...] = batch
        content = records.view(np.uint8).data
        num_bytes = len(content) + CHECKSUM_BYTES
        if num_bytes > self.max_bytes:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if num_bytes > self._room:
                self._make_room(num_bytes)
            with replacing(path) as temporary, temporary.open("wb") as file:
                file.write(content)
                file.write(checksum_of(content, record))
            self._room -= num_bytes
        except OSError as error:
            if not self._has_warned:
                reason = os.strerror(error.errno or 0).lower()
                emit(Warned(f"features cannot be kept in {str(self.folder)!r}: {reason}"))
            self._has_warned = True

    def _make_room(self, num_bytes: int) -> None:
        """Looks at all that is there, and drops what was used longest ago until so many bytes fit."""
        files = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        if total + num_bytes > self.max_bytes:
            for _, size, path in sorted(files):
                if size and total + num_bytes > (1 - SLACK) * self.max_bytes:  # a lock is empty, and stays
                    path.unlink(missing_ok=True)
                    total -= size
        self._room = max(min(self.max_bytes - total, SLACK * self.max_bytes), num_bytes)


def checksum_of(content: memoryview, record: np.dtype) -> bytes:
    """Returns the checksum of records, which is another where they are to be read as others."""
    return zlib.crc32(content, zlib.crc32(str(record).encode())).to_bytes(CHECKSUM_BYTES, "little")
