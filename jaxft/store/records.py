"""Records on disk: what a study is, its trials, sources, weights, analyses and checkpoints.

A work directory holds

    study.json               what this directory is; written once
    plan.json                the study as last planned: config, factors, trials in order
    groups/*.json            which trials run side by side, so that a resumed study keeps its bits
    convolution.json         what computes convolutions, kept for the same reason
    runs/*.json              one record a command: versions, device, command, git state
    events.jsonl             what happened, a line of JSON an event; only appended to
    trials/<digest>.json     one immutable record a trial, and beside it <digest>.npz with curves and arrays
    splits/<digest>.json     the manifest of each split: which images were trained, selected and tested on
    failures/<digest>.json   why a trial or source failed; tried again by the next run
    locks/                   what processes are at; a lock dies with its owner
    sources/<digest>.json    the source networks trained here, with .npz and .safetensors beside them
    weights/<digest>.safetensors   final weights, by policy
    analyses/<digest>.json   what was computed over several trials, with .npz beside it
    checkpoints/<digest>/    states of unfinished work (Orbax)

A record appears whole or not at all: it is written under a temporary name, synced, and linked to its own. Where
the file system has no hard links it is renamed instead, which is as atomic, but lets the last of two writers
win. Arrays go first and the JSON record last, so a record that is there is complete.
"""

import contextlib
import io
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.core.errors import UserError
from jaxft.core.files import explained_os_errors, replacing, write_once
from jaxft.core.locks import locked
from jaxft.store import tables
from jaxft.store.checkpoints import StoredCheckpoints
from jaxft.store.workdir import WorkDirectory, to_json

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Store(WorkDirectory):
    """The records of one work directory."""

    # --- the plan and the runs ---

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Keeps the study as planned: title, docstring, config, factor names, trials in order."""
        self.replace_json("plan.json", plan)

    def plan(self) -> dict[str, Any]:
        """Returns what `write_plan` kept."""
        plan = self.read_json("plan.json")
        if plan is None:
            raise UserError(f"the study in {str(self.workdir)!r} was never planned; run `jaxft study` again.")
        return plan

    def group(self, key: str) -> dict[str, Any] | None:
        """Returns how the group `key` runs: its executor, width and chunks of trials; None at first."""
        return self.read_json(f"groups/{key}.json")

    def write_group(self, key: str, record: Mapping[str, Any]) -> None:
        """Keeps how the group `key` runs."""
        self.replace_json(f"groups/{key}.json", record)

    def keep_convolution(self, used: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what computes the convolutions of this study: `used`, or what was kept when it began."""
        path = self.workdir / "convolution.json"
        with explained_os_errors(self.workdir):
            write_once(path, to_json(used))
        return self.read_json(path.name) or {}

    def write_run(self, record: Mapping[str, Any], started: float) -> None:
        """Keeps a record of the command that began at `started` (seconds since 1970)."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(started))
        self.replace_json(f"runs/{stamp}-{os.getpid()}.json", record)

    def runs(self) -> list[dict[str, Any]]:
        """Returns the records of all commands, the oldest first."""
        return [json.loads(path.read_bytes()) for path in sorted(self.workdir.glob("runs/[!.]*.json"))]

    # --- trials and sources ---

    def has(self, kind: str, digest: str) -> bool:
        """Tells whether the record `digest` of `kind` ('trials', 'sources', 'analyses') is there."""
        return (self.workdir / kind / f"{digest}.json").is_file()

    def read(self, kind: str, digest: str) -> dict[str, Any] | None:
        """Returns a record, or None where there is none."""
        return self.read_json(f"{kind}/{digest}.json")

    def write(self, kind: str, digest: str, record: Mapping[str, Any], arrays: Mapping[str, "np.ndarray"]) -> None:
        """Keeps a record and its arrays for good; a record that is there already is left as it is."""
        if self.has(kind, digest):
            return
        import numpy as np

        with explained_os_errors(self.workdir):
            folder = self.workdir / kind
            folder.mkdir(exist_ok=True)
            with replacing(folder / f"{digest}.npz") as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
            write_once(folder / f"{digest}.json", to_json(record))
            with contextlib.suppress(FileNotFoundError):
                (self.workdir / "failures" / f"{digest}.json").unlink()

    def write_split(self, manifest: Mapping[str, Any]) -> None:
        """Keeps the manifest of a split, under its own digest, for good."""
        with explained_os_errors(self.workdir):
            folder = self.workdir / "splits"
            folder.mkdir(exist_ok=True)
            path = folder / f"{manifest['digest']}.json"
            if not path.is_file():
                write_once(path, to_json(manifest))

    def arrays(self, kind: str, digest: str) -> Mapping[str, "np.ndarray"]:
        """Returns the arrays that were kept with a record; each is unpacked when it is asked for."""
        import numpy as np

        return np.load(io.BytesIO((self.workdir / kind / f"{digest}.npz").read_bytes()), allow_pickle=False)

    @contextlib.contextmanager
    def claim(self, key: str, wait: bool = True) -> Iterator[bool]:
        """Yields whether this process alone has the work `key`, which is free again when it ends; see `locked`."""
        with contextlib.ExitStack() as stack:
            with explained_os_errors(self.workdir):
                is_claimed = stack.enter_context(locked(self.workdir / "locks" / key, wait))
            yield is_claimed

    def drop_failure(self, digest: str) -> None:
        """Forgets that a trial or source failed, as it is tried again."""
        (self.workdir / "failures" / f"{digest}.json").unlink(missing_ok=True)

    def write_failure(self, digest: str, record: Mapping[str, Any]) -> None:
        """Keeps why a trial failed, until it succeeds."""
        self.replace_json(f"failures/{digest}.json", record)

    # --- weights ---

    def weights_path(self, digest: str, kind: str = "weights") -> Path:
        """Returns where the weights of a trial (or, with kind 'sources', of a source) lie."""
        return self.workdir / kind / f"{digest}.safetensors"

    @contextlib.contextmanager
    def writing_weights(self, digest: str, kind: str = "weights") -> Iterator[Path]:
        """Yields a temporary path to save weights to, which then become those of the trial or source."""
        path = self.weights_path(digest, kind)
        with explained_os_errors(self.workdir):
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as temporary:
                yield temporary

    def drop_weights(self, digest: str) -> None:
        """Removes the weights of a trial."""
        with contextlib.suppress(FileNotFoundError):
            self.weights_path(digest).unlink()

    # --- checkpoints of unfinished work ---

    def checkpoints(self, key: str) -> StoredCheckpoints:
        """Returns the checkpoints of the piece of work `key`."""
        return StoredCheckpoints(self.workdir, key)

    def drop_checkpoint(self, key: str) -> None:
        """Removes the checkpoints of work that is finished."""
        self.checkpoints(key).drop()

    def drop_checkpoints(self) -> None:
        """Removes the checkpoints of all work that no process is doing."""
        for folder in self.workdir.glob("checkpoints/*"):
            with self.claim(folder.name, wait=False) as is_claimed:
                if is_claimed:
                    self.drop_checkpoint(folder.name)

    # --- tables ---

    def results(self) -> "pd.DataFrame":
        """Returns a row for each trial of the study as last planned that has run; see `jaxft.store.tables`."""
        return tables.results_table(self)

    def changes(self) -> "pd.DataFrame":
        """Returns a row for each trial and layer, with a column for each measure; see `jaxft.store.tables`."""
        return tables.changes_table(self)

    def export_results(self) -> tuple[Path, Path]:
        """Writes `results.csv` and `results.parquet` and returns their paths."""
        return tables.export_results(self)

    def pairwise(self) -> dict[str, Any] | None:
        """Returns the distances between the final weights of trials, or None where none were measured.

        `trials`: digests; `layers`: names; `distances`: [layers, trials, trials] float32. Of several such
        analyses it is the one over most trials of the study as last planned.
        """
        planned = {trial["trial"] for trial in self.plan()["trials"]}
        analyses = [
            json.loads(path.read_bytes()) | {"digest": path.stem} for path in self.workdir.glob("analyses/[!.]*.json")
        ]
        analyses = [r for r in analyses if r["analysis"] == "pairwise" and planned.issuperset(r["trials"])]
        if not analyses:
            return None
        best = max(analyses, key=lambda record: (len(record["trials"]), record["digest"]))
        return best | dict(self.arrays("analyses", best["digest"]))
