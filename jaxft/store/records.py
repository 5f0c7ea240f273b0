"""The files of a work directory: plan, trials, sources, weights, analyses and checkpoints.

A work directory contains

    study.json               the marker of a work directory, with the schema version; written once
    plan.json                the last plan of the study: config, factors, trials in order
    groups/*.json            the trials that run together, so that a resumed study gives bit-identical results
    convolution.json         the library for convolutions, for the same reason
    runs/*.json              a record of each command: versions, device, command line, git state
    events.jsonl             the log: one event per line, as JSON; lines are only appended
    trials/<digest>.json     a record of each trial, never changed, and <digest>.npz with learning curves and arrays
    splits/<digest>.json     the manifest of each split: its training, validation and test images
    failures/<digest>.json   the error of each failed trial or source, which the next run tries again
    locks/                   locks of running jobs; the system releases a lock when its process ends
    sources/<digest>.json    a record of each source network that the study trained, with .npz and .safetensors files
    weights/<digest>.safetensors   final weights of trials, as set by execution.keep_weights
    snapshots/<digest>/<step>.safetensors   weights of trials during training, as set by execution.snapshot_steps
    analyses/<digest>.json   a record of each analysis over several trials, with an .npz file
    checkpoints/<digest>/    checkpoints of unfinished jobs (Orbax)

Records are written atomically: a record is written to a temporary name, synced, and linked to its final name. On a file
system without hard links it is renamed instead, which is also atomic, but the last of two writers wins. Arrays are
written before their JSON record, so every record is complete.

Each JSON record contains a digest of its name and content, and the sha256 of its arrays. The manifest of a split
contains its own digest, and a weight file a digest of its tensors. A command that reads a damaged file stops and names
it. The command of the study renames damaged files to `<name>.damaged` and repeats their work (`jaxft.store.repair`,
`jaxft.study.stored_weights`).
"""

import contextlib
import io
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.core.digests import sha256_of, sha256_of_file
from jaxft.core.errors import UserError
from jaxft.core.events import Listener
from jaxft.core.files import explained_os_errors, replacing, write_once
from jaxft.core.locks import locked
from jaxft.store import tables
from jaxft.store.checkpoints import StoredCheckpoints
from jaxft.store.repair import damaged_files
from jaxft.store.sealed import DAMAGED, DamagedFile, content_of, seal
from jaxft.store.workdir import PLAN, WorkDirectory

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Store(WorkDirectory):
    """The records of one work directory."""

    def set_aside_damaged(self, emit: Listener) -> None:
        """Renames damaged records to `<name>.damaged`, with a warning that names them.

        One process at a time does this, so no process renames a record that another one has just written again.
        """
        with self.claim("repair"):
            self.set_aside(damaged_files(self), emit)

    # --- the plan and the runs ---

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Writes the plan of the study: title, docstring, config, names of factors, trials in order."""
        self.replace_json(PLAN, plan)

    def plan(self) -> dict[str, Any]:
        """Returns the plan that `write_plan` wrote.

        Raises:
          UserError: the work directory does not contain a plan, or the plan is damaged.
        """
        plan = self.read_json(PLAN)
        if plan is None:
            raise UserError(f"the study in {str(self.workdir)!r} has no plan; run `jaxft study` again.")
        return plan

    def group(self, key: str) -> dict[str, Any] | None:
        """Returns the record of the group `key`: executor, width and chunks of trials; None if not written yet."""
        return self.read_json(f"groups/{key}.json")

    def write_group(self, key: str, record: Mapping[str, Any]) -> None:
        """Writes the record of the group `key`."""
        self.replace_json(f"groups/{key}.json", record)

    def keep_convolution(self, used: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the convolution library that the first run of the study recorded; the first run records `used`."""
        path = self.workdir / "convolution.json"
        with explained_os_errors(self.workdir):
            write_once(path, seal(path.name, used))
        return self.read_json(path.name) or {}

    def write_run(self, record: Mapping[str, Any], started: float) -> None:
        """Writes the record of the command that started at `started`, in seconds since 1970."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(started))
        self.replace_json(f"runs/{stamp}-{os.getpid()}.json", record)

    def runs(self) -> list[dict[str, Any]]:
        """Returns the records of all commands, oldest first."""
        return [self.read("runs", name) or {} for name in sorted(self.digests("runs"))]

    # --- trials and sources ---

    def has(self, kind: str, digest: str) -> bool:
        """Returns whether the record `digest` of `kind` ('trials', 'sources', 'analyses') exists."""
        return (self.workdir / kind / f"{digest}.json").is_file()

    def digests(self, kind: str) -> set[str]:
        """Returns the digests of all records of `kind` ('trials', 'sources', 'analyses'), or the names of all runs."""
        return {path.stem for path in self.workdir.glob(f"{kind}/[!.]*.json")}

    def read(self, kind: str, digest: str) -> dict[str, Any] | None:
        """Returns the record `digest` of `kind`, or None if it does not exist."""
        return self.read_json(f"{kind}/{digest}.json")

    def write(self, kind: str, digest: str, record: Mapping[str, Any], arrays: Mapping[str, "np.ndarray"]) -> None:
        """Writes a record and its arrays. An existing record is not changed.

        Args:
          kind: 'trials', 'sources' or 'analyses'.
          digest: the digest that names the record.
          record: the record, a JSON value.
          arrays: arrays of any shape by name.
        """
        if self.has(kind, digest):
            return
        import numpy as np

        with explained_os_errors(self.workdir):
            folder = self.workdir / kind
            folder.mkdir(exist_ok=True)
            with replacing(folder / f"{digest}.npz") as temporary:
                with temporary.open("wb") as file:
                    np.savez_compressed(file, allow_pickle=False, **arrays)
                arrays_sha256 = sha256_of_file(temporary)
            write_once(folder / f"{digest}.json", seal(f"{kind}/{digest}.json", record, arrays_sha256))
            with contextlib.suppress(FileNotFoundError):
                (self.workdir / "failures" / f"{digest}.json").unlink()

    def write_split(self, manifest: Mapping[str, Any]) -> None:
        """Writes the manifest of a split, named by its digest. An existing manifest is not changed.

        Other studies can read the file as `target.manifest`, so it has its own digest instead of that of a record.
        """
        with explained_os_errors(self.workdir):
            folder = self.workdir / "splits"
            folder.mkdir(exist_ok=True)
            path = folder / f"{manifest['digest']}.json"
            if not path.is_file():
                write_once(path, (json.dumps(manifest, indent=1) + "\n").encode())

    def arrays(self, kind: str, digest: str) -> Mapping[str, "np.ndarray"]:
        """Returns the arrays of a record by name. Each array is decompressed on access.

        Raises:
          DamagedFile: the arrays do not match their sha256 in the record, or a file is missing.
        """
        import numpy as np

        sealed = self.read_sealed(f"{kind}/{digest}.json")
        content = self.whole_arrays(kind, digest, "" if sealed is None else sealed[1])
        if content is None:
            raise DamagedFile(self._arrays_path(kind, digest))
        return np.load(io.BytesIO(content), allow_pickle=False)

    def whole_arrays(self, kind: str, digest: str, arrays_sha256: str) -> bytes | None:
        """Returns the bytes of the arrays of a record, or None if they are missing or do not match `arrays_sha256`."""
        content = content_of(self._arrays_path(kind, digest))
        return content if content is not None and sha256_of(content) == arrays_sha256 else None

    def _arrays_path(self, kind: str, digest: str) -> Path:
        return self.workdir / kind / f"{digest}.npz"

    def lost(self, kind: str, digest: str) -> bool:
        """Returns whether a damaged file of the record or weights `digest` was set aside and not written again."""
        aside = (self.workdir / kind).glob(f"{digest}.*{DAMAGED}")
        return any(not path.with_name(path.name.removesuffix(DAMAGED)).exists() for path in aside)

    @contextlib.contextmanager
    def claim(self, key: str, wait: bool = True) -> Iterator[bool]:
        """Yields whether this process holds the lock of the job `key`; see `jaxft.core.locks.locked`."""
        with contextlib.ExitStack() as stack:
            with explained_os_errors(self.workdir):
                is_claimed = stack.enter_context(locked(self.workdir / "locks" / key, wait))
            yield is_claimed

    def drop_failure(self, digest: str) -> None:
        """Deletes the record of a failure, because the trial or source is tried again."""
        (self.workdir / "failures" / f"{digest}.json").unlink(missing_ok=True)

    def write_failure(self, digest: str, record: Mapping[str, Any]) -> None:
        """Writes the record of a failure, which is deleted when the trial or source is tried again."""
        self.replace_json(f"failures/{digest}.json", record)

    # --- weights ---

    def weights_path(self, digest: str, kind: str = "weights") -> Path:
        """Returns the path of the weights of a trial, or with kind 'sources' of a source."""
        return self.workdir / kind / f"{digest}.safetensors"

    @contextlib.contextmanager
    def writing_weights(self, digest: str, kind: str = "weights") -> Iterator[Path]:
        """Yields a temporary path for the weights of a trial or source; they replace the old ones atomically."""
        path = self.weights_path(digest, kind)
        with explained_os_errors(self.workdir):
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as temporary:
                yield temporary

    def snapshot_path(self, digest: str, step: int) -> Path:
        """Returns the path of the weights of a trial after `step` steps of training."""
        return self.workdir / "snapshots" / digest / f"{step}.safetensors"

    @contextlib.contextmanager
    def writing_snapshot(self, digest: str, step: int) -> Iterator[Path]:
        """Yields a temporary path for the weights of a trial after `step` steps; they replace old ones atomically."""
        path = self.snapshot_path(digest, step)
        with explained_os_errors(self.workdir):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                yield temporary

    def drop_weights(self, digest: str) -> None:
        """Deletes the weights of a trial."""
        with contextlib.suppress(FileNotFoundError):
            self.weights_path(digest).unlink()

    # --- checkpoints of unfinished work ---

    def checkpoints(self, key: str) -> StoredCheckpoints:
        """Returns the checkpoints of the job `key`."""
        return StoredCheckpoints(self.workdir, key)

    def drop_checkpoint(self, key: str) -> None:
        """Deletes the checkpoints of the job `key`."""
        self.checkpoints(key).drop()

    def drop_checkpoints(self) -> None:
        """Deletes the checkpoints of all jobs that no process runs."""
        for folder in self.workdir.glob("checkpoints/*"):
            with self.claim(folder.name, wait=False) as is_claimed:
                if is_claimed:
                    self.drop_checkpoint(folder.name)

    # --- tables ---

    def results(self) -> "pd.DataFrame":
        """Returns a row for each finished or failed trial of the last plan; see `jaxft.store.tables`."""
        return tables.results_table(self)

    def changes(self) -> "pd.DataFrame":
        """Returns a row for each trial and layer, with a column for each measure; see `jaxft.store.tables`."""
        return tables.changes_table(self)

    def export_results(self) -> tuple[Path, Path]:
        """Writes `results.csv` and `results.parquet`, and returns their paths."""
        return tables.export_results(self)

    def pairwise(self) -> dict[str, Any] | None:
        """Returns the distances between the final weights of trials, or None if they were not computed.

        Returns:
          `trials`: digests; `layers`: names; `distances`: [layers, trials, trials] float32. If there are several such
          analyses, this is the one with the most trials, all of which are in the last plan.
        """
        planned = {trial["trial"] for trial in self.plan()["trials"]}
        records = [(self.read("analyses", digest) or {}) | {"digest": digest} for digest in self.digests("analyses")]
        analyses = [r for r in records if r.get("analysis") == "pairwise" and planned.issuperset(r["trials"])]
        if not analyses:
            return None
        best = max(analyses, key=lambda record: (len(record["trials"]), record["digest"]))
        return best | dict(self.arrays("analyses", best["digest"]))
