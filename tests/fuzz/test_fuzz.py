"""Mutated files of every kind end in a result or in one sentence: no other exception, no hang, no memory blow-up.

The whole: `python -m pytest -n 0 -s -m nightly tests/fuzz`, which prints the counts. A finding is named by its kind and
number, and `python tests/fuzz/worker.py FOLDER` repeats it.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

KINDS = [
    "safetensors", "safetensors without record", "safetensors (sharded)", "torch", "torch without record",
    "torch (tar)", "torch (legacy)", "msgpack", "msgpack without record", "npz of weights",
    "npz of weights (compressed)",
    "npz of weights, record of timm", "keras", "keras 3", "keras archive", "caffe", "orbax", "orbax (files)",
    "class names", "record", "manifest", "npz of images", "IDX", "IDX in a zip", "CIFAR", "Parquet of images",
    "Parquet table", "CSV", "TSV", "JSON Lines", "zip", "tar", "tar.gz", "tar.xz", "jpeg", "png", "gif", "webp", "tiff",
    "bmp", "avif",
]  # fmt: skip
NEEDS = {"torch (legacy)": "torch", "keras": "h5py", "keras 3": "h5py", "keras archive": "h5py"}
SLOW = ("orbax", "orbax (files)")  # about 50 ms per file
FEW, MANY, MANY_SLOW = 10, 1000, 300
MOST_SECONDS = 5.0  # of processor time per file
MOST_WAIT = 600.0  # seconds, also on a busy machine; processor time is limited in the process
MOST_BYTES = 1_000_000_000


class Worker:
    """A process that reads mutated files, and is started again when it ends or hangs."""

    def __init__(self, folder):
        self.folder, self.num_started, self.process = folder, 0, None

    def start(self):
        self.num_started += 1
        folder = self.folder / str(self.num_started)
        folder.mkdir(parents=True)
        self.messages = folder / "messages.txt"
        environment = os.environ | {"JAXFT_CACHE": str(folder / "cache")}
        with self.messages.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("worker.py")), str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
            )

    def ask(self, kind, number):
        """Returns the answer of the process for a mutated file, or one that says how the process ended."""
        if self.process is None:
            self.start()
        self.process.stdin.write(f"{kind}\t{number}\n".encode())
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], MOST_WAIT)
        line = self.process.stdout.readline() if ready else b""
        if line:
            return json.loads(line)
        return {"outcome": "ended" if ready else "hung", "detail": self.stop(), "seconds": 0.0, "bytes": 0}

    def stop(self):
        """Ends the process, and returns how it ended, with the end of its messages."""
        if self.process is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        self.process.kill()
        self.process.communicate()
        code, self.process = self.process.returncode, None
        return f"exit code {code} ({-signal.SIGPROF} is too much time): {self.messages.read_text()[-500:]}"


@pytest.fixture
def worker(tmp_path):
    worker = Worker(tmp_path)
    yield worker
    worker.stop()


def check(worker, kind, numbers):
    """Returns the findings among mutated files of a kind, and prints the counts."""
    answers = {number: worker.ask(kind, number) for number in numbers}
    counts = Counter(answer["outcome"] for answer in answers.values())
    longest = max(answer["seconds"] for answer in answers.values())
    largest = max(answer["bytes"] for answer in answers.values())
    print(
        f"{kind}: {len(answers):,} files: {dict(counts)}, at most {longest:.2f} s and {largest / 1e6:.0f} MB",
        flush=True,
    )
    findings = [
        f"{kind} {number}: {answer['outcome']}: {answer['seconds']:.1f} s, {answer['bytes'] / 1e6:.0f} MB: "
        f"{answer['detail']}"
        for number, answer in answers.items()
        if answer["outcome"] not in ("read", "refused")
        or answer["seconds"] > MOST_SECONDS
        or answer["bytes"] > MOST_BYTES
    ]
    return findings


def available(kind):
    return kind not in NEEDS or pytest.importorskip(NEEDS[kind])


@pytest.mark.slow
def test_mutated_files_are_read_or_refused(worker):
    from importlib.util import find_spec

    kinds = [kind for kind in KINDS if kind not in NEEDS or find_spec(NEEDS[kind])]
    findings = [
        finding for kind in kinds for finding in check(worker, kind, range(FEW if kind not in SLOW else FEW // 3))
    ]
    assert not findings, "\n\n".join(findings)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutated_files_are_read_or_refused(worker, kind):
    available(kind)
    findings = check(worker, kind, range(FEW, FEW + (MANY_SLOW if kind in SLOW else MANY)))
    assert not findings, "\n\n".join(findings)
