"""Records on disk: what a study is, its trials, sources, weights, analyses and checkpoints.

A work directory holds

    study.json               what this directory is; written once
    plan.json                the study as last planned: config, factors, trials in order
    groups/*.json            which trials run side by side, so that a resumed study keeps its bits
    convolution.json         what computes convolutions, kept for the same reason
    runs/*.json              one record a command: versions, device, command, git state
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
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.config import SCHEMA_VERSION
from jaxft.core.errors import UserError
from jaxft.core.files import TEMPORARY, replacing, saying_what_is_wrong, write_once
from jaxft.core.locks import locked

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

FORMAT = "jaxft study"
STALE_SECONDS = 3600.0


class Store:
    """The records of one work directory."""

    def __init__(self, workdir: str | os.PathLike[str]):
        self.workdir = Path(workdir)

    # --- the directory ---

    @classmethod
    def create(cls, workdir: str | os.PathLike[str]) -> "Store":
        """Opens `workdir` for writing, making it where it is missing.

        Raises a `UserError` where the directory holds something else, or cannot be written.
        """
        store = cls(workdir)
        with saying_what_is_wrong(store.workdir):
            if store.workdir.exists() and not store.workdir.is_dir():
                raise UserError(f"the work directory {str(workdir)!r} is a file; name a folder.")
            if store.workdir.is_dir() and not store._marker.exists():
                others = sorted(p.name for p in store.workdir.iterdir() if not p.name.startswith(TEMPORARY))
                if others:
                    raise UserError(
                        f"the work directory {str(workdir)!r} holds something else ({others[0]}); "
                        "name an empty folder, or one that holds a study."
                    )
            store.workdir.mkdir(parents=True, exist_ok=True)
            write_once(store._marker, _to_json({"format": FORMAT, "schema": SCHEMA_VERSION}))
            store._check_marker()
            store._remove_stale()
        return store

    @classmethod
    def open(cls, workdir: str | os.PathLike[str]) -> "Store":
        """Opens a work directory for reading; a `UserError` says where it holds no study."""
        store = cls(workdir)
        if not store._marker.is_file():
            raise UserError(f"there is no study in {str(workdir)!r}; `jaxft study` makes one.")
        store._check_marker()
        return store

    @property
    def _marker(self) -> Path:
        return self.workdir / "study.json"

    def _check_marker(self) -> None:
        try:
            marker = json.loads(self._marker.read_bytes())
        except ValueError:
            marker = {}
        if not isinstance(marker, dict) or marker.get("format") != FORMAT:
            raise UserError(f"{str(self._marker)!r} is not a study's; name another work directory.")
        schema = marker.get("schema")
        if schema != SCHEMA_VERSION:
            is_newer = isinstance(schema, int) and schema > SCHEMA_VERSION
            remedy = "update jaxft" if is_newer else "read it with that version"
            raise UserError(
                f"the work directory {str(self.workdir)!r} was written by {'a newer' if is_newer else 'an older'} "
                f"version of jaxft (schema {schema}, this version has {SCHEMA_VERSION}); {remedy}, or name another "
                "work directory to run the study again."
            )

    def _remove_stale(self) -> None:
        """Removes what killed writers left behind; what is young may belong to a writer still at work."""
        for path in self.workdir.rglob(TEMPORARY + "*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    # --- the plan and the runs ---

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Keeps the study as planned: title, docstring, config, factor names, trials in order."""
        self._replace("plan.json", plan)

    def plan(self) -> dict[str, Any]:
        """Returns what `write_plan` kept."""
        found = self._read("plan.json")
        if found is None:
            raise UserError(f"the study in {str(self.workdir)!r} was never planned; run `jaxft study` again.")
        return found

    def group(self, key: str) -> dict[str, Any] | None:
        """Returns how the group `key` runs: its executor, width and chunks of trials; None at first."""
        return self._read(f"groups/{key}.json")

    def write_group(self, key: str, record: Mapping[str, Any]) -> None:
        """Keeps how the group `key` runs."""
        self._replace(f"groups/{key}.json", record)

    def keep_convolution(self, used: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what computes the convolutions of this study: `used`, or what was kept when it began."""
        path = self.workdir / "convolution.json"
        with saying_what_is_wrong(self.workdir):
            write_once(path, _to_json(used))
        return self._read(path.name) or {}

    def write_run(self, record: Mapping[str, Any], started: float) -> None:
        """Keeps a record of the command that began at `started` (seconds since 1970)."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(started))
        self._replace(f"runs/{stamp}-{os.getpid()}.json", record)

    def runs(self) -> list[dict[str, Any]]:
        """Returns the records of all commands, the oldest first."""
        return [json.loads(path.read_bytes()) for path in sorted(self.workdir.glob("runs/[!.]*.json"))]

    # --- trials and sources ---

    def has(self, kind: str, digest: str) -> bool:
        """Tells whether the record `digest` of `kind` ('trials', 'sources', 'analyses') is there."""
        return (self.workdir / kind / f"{digest}.json").is_file()

    def read(self, kind: str, digest: str) -> dict[str, Any] | None:
        """Returns a record, or None where there is none."""
        return self._read(f"{kind}/{digest}.json")

    def write(self, kind: str, digest: str, record: Mapping[str, Any], arrays: Mapping[str, "np.ndarray"]) -> None:
        """Keeps a record and its arrays for good; a record that is there already is left as it is."""
        if self.has(kind, digest):
            return
        import numpy as np

        with saying_what_is_wrong(self.workdir):
            folder = self.workdir / kind
            folder.mkdir(exist_ok=True)
            with replacing(folder / f"{digest}.npz") as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
            write_once(folder / f"{digest}.json", _to_json(record))
            with contextlib.suppress(FileNotFoundError):
                (self.workdir / "failures" / f"{digest}.json").unlink()

    def write_split(self, manifest: Mapping[str, Any]) -> None:
        """Keeps the manifest of a split, under its own digest, for good."""
        with saying_what_is_wrong(self.workdir):
            folder = self.workdir / "splits"
            folder.mkdir(exist_ok=True)
            path = folder / f"{manifest['digest']}.json"
            if not path.is_file():
                write_once(path, _to_json(manifest))

    def arrays(self, kind: str, digest: str) -> Mapping[str, "np.ndarray"]:
        """Returns the arrays that were kept with a record; each is unpacked when it is asked for."""
        import numpy as np

        return np.load(io.BytesIO((self.workdir / kind / f"{digest}.npz").read_bytes()), allow_pickle=False)

    @contextlib.contextmanager
    def claim(self, key: str, wait: bool = True) -> Iterator[bool]:
        """Yields whether this process alone has the work `key`, which is free again when it ends; see `locked`."""
        with contextlib.ExitStack() as stack:
            with saying_what_is_wrong(self.workdir):
                mine = stack.enter_context(locked(self.workdir / "locks" / key, wait))
            yield mine

    def drop_failure(self, digest: str) -> None:
        """Forgets that a trial or source failed, as it is tried again."""
        (self.workdir / "failures" / f"{digest}.json").unlink(missing_ok=True)

    def write_failure(self, digest: str, record: Mapping[str, Any]) -> None:
        """Keeps why a trial failed, until it succeeds."""
        self._replace(f"failures/{digest}.json", record)

    # --- weights ---

    def weights_path(self, digest: str, kind: str = "weights") -> Path:
        """Returns where the weights of a trial (or, with kind 'sources', of a source) lie."""
        return self.workdir / kind / f"{digest}.safetensors"

    @contextlib.contextmanager
    def writing_weights(self, digest: str, kind: str = "weights") -> Iterator[Path]:
        """Yields a temporary path to save weights to, which then become those of the trial or source."""
        path = self.weights_path(digest, kind)
        with saying_what_is_wrong(self.workdir):
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as temporary:
                yield temporary

    def drop_weights(self, digest: str) -> None:
        """Removes the weights of a trial."""
        with contextlib.suppress(FileNotFoundError):
            self.weights_path(digest).unlink()

    # --- checkpoints of unfinished work ---

    def save_checkpoint(self, key: str, epoch: int, tree: Any) -> None:
        """Keeps the state of unfinished work; Orbax commits it whole, and then drops the one before."""
        with saying_what_is_wrong(self.workdir), self._checkpoints(key) as manager:
            import orbax.checkpoint as ocp

            manager.save(epoch, args=ocp.args.StandardSave(tree))
            manager.wait_until_finished()

    def latest_checkpoint(self, key: str) -> int | None:
        """Returns the epoch of the last checkpoint of some unfinished work, or None."""
        if not (self.workdir / "checkpoints" / key).is_dir():
            return None
        with self._checkpoints(key) as manager:
            return manager.latest_step()

    def load_checkpoint(self, key: str, epoch: int, like: Any) -> Any:
        """Returns the state that was saved at `epoch`, with the structure of `like`."""
        import jax
        import orbax.checkpoint as ocp

        with self._checkpoints(key) as manager:
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            return manager.restore(epoch, args=ocp.args.StandardRestore(abstract))

    def drop_checkpoint(self, key: str) -> None:
        """Removes the checkpoints of work that is finished."""
        shutil.rmtree(self.workdir / "checkpoints" / key, ignore_errors=True)

    def drop_checkpoints(self) -> None:
        """Removes all checkpoints of work that nobody is at: nothing is unfinished."""
        for folder in self.workdir.glob("checkpoints/*"):
            with self.claim(folder.name, wait=False) as mine:
                if mine:
                    self.drop_checkpoint(folder.name)

    @contextlib.contextmanager
    def _checkpoints(self, key: str) -> Iterator[Any]:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True, cleanup_tmp_directories=True)
        manager = ocp.CheckpointManager((self.workdir / "checkpoints" / key).absolute(), options=options)
        try:
            yield manager
        finally:
            manager.close()

    # --- tables ---

    def results(self) -> "pd.DataFrame":
        """Returns a row a trial of the study as last planned, for the trials that have run.

        Columns: `trial` (digest), `status` ('done', 'diverged', 'failed'), `setting` (a number for each
        combination of levels), the factors under their dotted names, `seed`, `val_accuracy`, `test_accuracy`
        (in [0, 1]; missing where a trial diverged or failed), `val_mean_per_class`, `test_mean_per_class` (the
        same as means over the classes, each of which counts as much), `selected_epoch`, `relative_change` (of all
        parameters below the head), `seconds`, `executor`, `width`.
        """
        import pandas as pd

        plan = self.plan()
        rows = []
        for trial in plan["trials"]:
            digest = trial["trial"]
            record = self.read("trials", digest) or self.read("failures", digest)
            if record is None:
                continue
            rows.append(
                {
                    "trial": digest,
                    "status": record["status"],
                    "setting": trial["setting"],
                    **{name: _shown(level) for name, level in trial["factors"].items()},
                    "seed": trial["seed"],
                    **{name: record.get(name) for name in RESULT_COLUMNS},
                }
            )
        columns = ["trial", "status", "setting", *plan["factors"], "seed", *RESULT_COLUMNS]
        table = pd.DataFrame(rows, columns=columns)
        return table.astype(dict.fromkeys(MEASURED, "float64"))

    def changes(self) -> "pd.DataFrame":
        """Returns a row for each trial and layer: `trial`, `setting`, `seed`, `layer` and the layer's change.

        The measures are those of `jaxft.analysis.parameters.Change`; layers are in the network's order.
        """
        import pandas as pd

        rows = []
        for trial in self.plan()["trials"]:
            record = self.read("trials", trial["trial"])
            for layer, change in ((record or {}).get("changes") or {}).items():
                place = {name: trial[name] for name in ("trial", "setting", "seed")}
                rows.append({**place, "layer": layer, **change})
        return pd.DataFrame(rows)

    def pairwise(self) -> dict[str, Any] | None:
        """Returns the distances between the final weights of trials, or None where none were measured.

        `trials`: digests; `layers`: names; `distances`: [layers, trials, trials] float32. Of several such
        analyses it is the one over most trials of the study as last planned.
        """
        planned = {trial["trial"] for trial in self.plan()["trials"]}
        found = [
            json.loads(path.read_bytes()) | {"digest": path.stem} for path in self.workdir.glob("analyses/[!.]*.json")
        ]
        found = [r for r in found if r["analysis"] == "pairwise" and planned.issuperset(r["trials"])]
        if not found:
            return None
        best = max(found, key=lambda record: (len(record["trials"]), record["digest"]))
        return best | dict(self.arrays("analyses", best["digest"]))

    def export_results(self) -> tuple[Path, Path]:
        """Writes `results.csv` and `results.parquet` and returns their paths."""
        table = self.results()
        # A factor may mix numbers and words ('frozen') or hold rules, which a Parquet column cannot.
        mixed = {
            name: table[name].map(lambda level: level if isinstance(level, str) else json.dumps(level))
            for name in self.plan()["factors"]
            if table[name].dtype == object
        }
        paths = self.workdir / "results.csv", self.workdir / "results.parquet"
        with saying_what_is_wrong(self.workdir):
            with replacing(paths[0]) as temporary:
                table.to_csv(temporary, index=False)
            with replacing(paths[1]) as temporary:
                table.assign(**mixed).to_parquet(temporary, index=False)
        return paths

    # --- JSON files ---

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return json.loads((self.workdir / name).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            raise UserError(f"the record {str(self.workdir / name)!r} is damaged; remove it and run again.") from None

    def _replace(self, name: str, record: Mapping[str, Any]) -> None:
        path = self.workdir / name
        with saying_what_is_wrong(self.workdir):
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(_to_json(record))


MEASURED = (
    "val_accuracy",
    "test_accuracy",
    "val_mean_per_class",
    "test_mean_per_class",
    "selected_epoch",
    "relative_change",
    "seconds",
)

RESULT_COLUMNS = (*MEASURED, "executor", "width")


def _to_json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()


def _shown(level: Any) -> Any:
    """Returns a level as a table's cell: 'none' for nothing, which would be taken for a missing value."""
    if level is None:
        return "none"
    if isinstance(level, Mapping):
        return json.dumps(level, sort_keys=True)
    if isinstance(level, Sequence) and not isinstance(level, str):
        return tuple(_shown(item) for item in level)
    return level
