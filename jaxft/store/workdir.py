"""A work directory: its marker with the schema version, and atomic writes of JSON records."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from jaxft.config import SCHEMA_VERSION
from jaxft.core.errors import UserError
from jaxft.core.events import Listener, Warned, print_warnings
from jaxft.core.files import TEMPORARY, explained_os_errors, replacing, write_once
from jaxft.core.text import plural, some_of
from jaxft.store.sealed import DAMAGED, DamagedFile, content_of, seal, unseal

FORMAT = "jaxft study"
MARKER, PLAN = "study.json", "plan.json"
STALE_SECONDS = 3600.0
MOST_NAMED = 3  # damaged files that a warning names


class WorkDirectory:
    """The folder of a study, which contains the marker `study.json`."""

    def __init__(self, workdir: str | os.PathLike[str]):
        self.workdir = Path(workdir)

    @classmethod
    def create(cls, workdir: str | os.PathLike[str], emit: Listener = print_warnings) -> Self:
        """Opens `workdir` for writing, and creates it if it is missing. A damaged marker is set aside, with a warning.

        Args:
          workdir: the folder.
          emit: receives the warning.

        Raises:
          UserError: `workdir` is a file, contains other files than a study, cannot be written, or was written by
            another version of jaxft.
        """
        store = cls(workdir)
        with explained_os_errors(store.workdir):
            if store.workdir.exists() and not store.workdir.is_dir():
                raise UserError(f"the work directory {str(workdir)!r} is a file; name a folder.")
            if store.workdir.is_dir() and not store._is_marked():
                others = sorted(p.name for p in store.workdir.iterdir() if not p.name.startswith(TEMPORARY))
                if others:
                    raise UserError(
                        f"the work directory {str(workdir)!r} contains other files ({some_of(others)}); "
                        "name an empty folder, or one that contains a study."
                    )
            store.workdir.mkdir(parents=True, exist_ok=True)
            store._write_marker(emit)
            store._remove_stale()
        return store

    @classmethod
    def open(cls, workdir: str | os.PathLike[str]) -> Self:
        """Opens a work directory for reading.

        Raises:
          UserError: `workdir` does not contain a study, or it was written by another version of jaxft.
        """
        store = cls(workdir)
        if not store._is_marked():
            raise UserError(f"there is no study in {str(workdir)!r}; name the work directory of a `jaxft study`.")
        if not store._has_whole_marker():
            raise DamagedFile(store._marker)
        return store

    @property
    def _marker(self) -> Path:
        return self.workdir / MARKER

    def _is_marked(self) -> bool:
        """Returns whether the folder contains a marker, or a plan of a study whose marker is missing."""
        return self._marker.exists() or unseal(PLAN, content_of(self.workdir / PLAN) or b"") is not None

    def _write_marker(self, emit: Listener) -> None:
        """Writes the marker if it is missing, and replaces a damaged one."""
        if self._marker.exists() and not self._has_whole_marker():
            self.set_aside([MARKER], emit)
        write_once(self._marker, seal(MARKER, {"format": FORMAT, "schema": SCHEMA_VERSION}))

    def _has_whole_marker(self) -> bool:
        """Returns whether the marker is whole; False if it is damaged or missing.

        Raises:
          UserError: the marker is of another program, or of another version of jaxft.
        """
        content = content_of(self._marker) or b""
        if (whole := unseal(MARKER, content)) is not None:
            marker = whole[0]
        elif unseal(PLAN, content_of(self.workdir / PLAN) or b"") is not None:
            return False
        else:  # older versions did not seal it
            marker = _json_object(content)
        if marker.get("format") != FORMAT:
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
        return whole is not None

    def _remove_stale(self) -> None:
        """Deletes temporary files of killed processes; new temporary files may belong to a running process."""
        for path in self.workdir.rglob(TEMPORARY + "*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Returns the record in the JSON file `name`, or None if the file does not exist.

        Raises:
          DamagedFile: the file does not match its digest.
        """
        whole = self.read_sealed(name)
        return None if whole is None else whole[0]

    def read_sealed(self, name: str) -> tuple[dict[str, Any], str] | None:
        """Returns (record, sha256 of its arrays) of the JSON file `name`, or None if the file does not exist.

        Raises:
          DamagedFile: the file does not match its digest.
        """
        content = content_of(self.workdir / name)
        if content is None:
            return None
        whole = unseal(name, content)
        if whole is None:
            raise DamagedFile(self.workdir / name)
        return whole

    def replace_json(self, name: str, record: Mapping[str, Any]) -> None:
        """Writes a record to the JSON file `name` atomically; it replaces an existing file."""
        path = self.workdir / name
        with explained_os_errors(self.workdir):
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(seal(name, record))

    def set_aside(self, names: Sequence[str], emit: Listener) -> None:
        """Renames damaged files to `<name>.damaged`, with a warning. Earlier files of these names are replaced."""
        for name in names:
            path = self.workdir / name
            aside = path.with_name(path.name + DAMAGED)
            with contextlib.suppress(FileNotFoundError):
                if aside.is_dir():
                    shutil.rmtree(aside)
                path.replace(aside)
        if names:
            emit(Warned(_set_aside_text(self.workdir, names)))


def _set_aside_text(workdir: Path, names: Sequence[str]) -> str:
    """Returns a sentence about files that were set aside."""
    are, them, their = ("is", "it", "its") if len(names) == 1 else ("are", "them", "their")
    return (
        f"{plural(len(names), 'file')} in {str(workdir)!r} {are} damaged or incomplete "
        f"({some_of(names, MOST_NAMED)}); jaxft keeps {them} as *{DAMAGED} and repeats {their} work"
    )


def _json_object(content: bytes) -> dict[str, Any]:
    """Returns the JSON object in `content`, or {} if it contains none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
