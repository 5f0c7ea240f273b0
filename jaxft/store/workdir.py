"""A work directory: its marker with the schema version, and atomic writes of JSON files."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from jaxft.config import SCHEMA_VERSION
from jaxft.core.errors import UserError
from jaxft.core.files import TEMPORARY, explained_os_errors, replacing, write_once
from jaxft.core.text import some_of

FORMAT = "jaxft study"
STALE_SECONDS = 3600.0


class WorkDirectory:
    """The folder of a study, which contains the marker `study.json`."""

    def __init__(self, workdir: str | os.PathLike[str]):
        self.workdir = Path(workdir)

    @classmethod
    def create(cls, workdir: str | os.PathLike[str]) -> Self:
        """Opens `workdir` for writing, and creates it if it is missing.

        Raises:
          UserError: `workdir` is a file, contains other files than a study, cannot be written, or was written by
            another version of jaxft.
        """
        store = cls(workdir)
        with explained_os_errors(store.workdir):
            if store.workdir.exists() and not store.workdir.is_dir():
                raise UserError(f"the work directory {str(workdir)!r} is a file; name a folder.")
            if store.workdir.is_dir() and not store._marker.exists():
                others = sorted(p.name for p in store.workdir.iterdir() if not p.name.startswith(TEMPORARY))
                if others:
                    raise UserError(
                        f"the work directory {str(workdir)!r} contains other files ({some_of(others)}); "
                        "name an empty folder, or one that contains a study."
                    )
            store.workdir.mkdir(parents=True, exist_ok=True)
            write_once(store._marker, to_json({"format": FORMAT, "schema": SCHEMA_VERSION}))
            store._check_marker()
            store._remove_stale()
        return store

    @classmethod
    def open(cls, workdir: str | os.PathLike[str]) -> Self:
        """Opens a work directory for reading.

        Raises:
          UserError: `workdir` does not contain a study, or it was written by another version of jaxft.
        """
        store = cls(workdir)
        if not store._marker.is_file():
            raise UserError(f"there is no study in {str(workdir)!r}; name the work directory of a `jaxft study`.")
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
            raise UserError(f"{str(self._marker)!r} is not a file of jaxft; name another work directory.")
        schema = marker.get("schema")
        if schema != SCHEMA_VERSION:
            is_newer = isinstance(schema, int) and schema > SCHEMA_VERSION
            remedy = "update jaxft" if is_newer else "use that version"
            raise UserError(
                f"the work directory {str(self.workdir)!r} was written by {'a newer' if is_newer else 'an older'} "
                f"version of jaxft (schema {schema}, this version has {SCHEMA_VERSION}); {remedy}, or name another "
                "work directory to run the study again."
            )

    def _remove_stale(self) -> None:
        """Deletes temporary files of killed processes; new temporary files may belong to a running process."""
        for path in self.workdir.rglob(TEMPORARY + "*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Returns the content of the JSON file `name`, or None if it does not exist.

        Raises:
          UserError: the file is damaged.
        """
        try:
            return json.loads((self.workdir / name).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            raise UserError(f"the record {str(self.workdir / name)!r} is damaged; delete it and run again.") from None

    def replace_json(self, name: str, record: Mapping[str, Any]) -> None:
        """Writes the JSON file `name` atomically; it replaces an existing file."""
        path = self.workdir / name
        with explained_os_errors(self.workdir):
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(to_json(record))


def to_json(record: Mapping[str, Any]) -> bytes:
    """Returns a record as JSON.

    Raises:
      ValueError: the record contains nan or infinity, which JSON cannot store.
    """
    return (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()
