"""Batches of activations of frozen layers on disk, shared by all processes."""

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

WRITE_SECONDS = 5.0  # time between writes: a killed process loses at most the work of this time

SLACK = 0.05  # fraction of the disk budget that can be written before the folder is measured again

Compute = Callable[[Sequence[int]], Iterable[tuple[int, np.ndarray]]]


class Packs:
    """Files with batches in a folder that all processes share, with a budget in bytes.

    The least recently used files are dropped first. A file contains records of (number, batch) and a checksum, which is
    verified each time the file is read. A file is complete when it appears, and can disappear at any time. Batches of a
    damaged file are computed again. If the folder cannot be written, each process computes the batches again.
    """

    def __init__(self, folder: Path, max_bytes: float):
        self.folder, self.max_bytes = folder, max_bytes
        self._room = 0.0  # bytes that can be written before the folder is measured again
        self._has_warned = False

    def batches(
        self, pack: tuple[str, int], record: np.dtype, numbers: Sequence[int], compute: Compute, emit: Listener
    ) -> dict[int, np.ndarray]:
        """Returns {number: batch}: the requested batches, and possibly others of the same file.

        One process at a time computes batches that the file lacks.

        Args:
          pack: (digest of the prefix, index of the file).
          record: dtype of a record of the file.
          numbers: the requested batches.
          compute: (numbers) -> pairs (number, batch).
          emit: receives warnings, and an event if this process waits for another one.
        """
        digest, index = pack
        path = self.folder / f"{digest}-{index}.pack"
        batches = self._read(path, record, emit)
        if all(number in batches for number in numbers):
            return batches
        with self._exclusive(digest, emit):
            batches = self._read(path, record)  # another process can have computed them in the meantime
            missing = [number for number in numbers if number not in batches]
            written = time.monotonic()
            for number, batch in compute(missing):
                batches[number] = batch
                if number == missing[-1] or time.monotonic() - written > WRITE_SECONDS:
                    self._write(path, record, batches, emit)
                    written = time.monotonic()
        return batches

    @contextlib.contextmanager
    def _exclusive(self, digest: str, emit: Listener) -> Iterator[None]:
        path = self.folder / f"{digest}.lock"
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                if not stack.enter_context(locked(path, wait=False)):
                    emit(Waiting("another process that computes the same features"))
                    stack.enter_context(locked(path))
            yield

    def _read(self, path: Path, record: np.dtype, emit: Listener = ignore) -> dict[int, np.ndarray]:
        """Returns the batches of a file, and marks it as most recently used."""
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
                emit(Warned(f"features cannot be cached in {str(self.folder)!r}: {reason}"))
            self._has_warned = True

    def _make_room(self, num_bytes: int) -> None:
        """Measures the folder, and drops the least recently used files until `num_bytes` fit into the budget."""
        files = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        if total + num_bytes > self.max_bytes:
            for _, size, path in sorted(files):
                if size and total + num_bytes > (1 - SLACK) * self.max_bytes:  # lock files are empty and remain
                    path.unlink(missing_ok=True)
                    total -= size
        self._room = max(min(self.max_bytes - total, SLACK * self.max_bytes), num_bytes)


def checksum_of(content: memoryview, record: np.dtype) -> bytes:
    """Returns the checksum of records. It also covers their dtype, so records of another dtype do not match."""
    return zlib.crc32(content, zlib.crc32(str(record).encode())).to_bytes(CHECKSUM_BYTES, "little")
