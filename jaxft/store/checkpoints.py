"""Checkpoints of an unfinished job, saved by Orbax."""

import contextlib
import gc
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.core.digests import sha256_of
from jaxft.core.errors import UserError
from jaxft.core.files import explained_os_errors
from jaxft.core.text import cut_off

if TYPE_CHECKING:
    import numpy as np

MOST_CHARACTERS = 100  # of an error of Orbax in a message


class DamagedCheckpoint(UserError):
    """A checkpoint cannot be restored. Its job starts again from its start."""


class StoredCheckpoints:
    """The latest checkpoint of the job `key`, in a folder that the first save creates.

    A checkpoint contains a digest of its arrays, because Orbax does not detect every flipped bit.
    """

    def __init__(self, workdir: Path, key: str):
        self.workdir, self.folder = workdir, workdir / "checkpoints" / key

    def latest(self) -> int | None:
        """Returns the number of the latest checkpoint, or None if there is no checkpoint."""
        if not self.folder.is_dir():
            return None
        return max((int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()), default=None)

    def load(self, number: int, like: Any) -> Any:
        """Returns the state of checkpoint `number`, with the structure of `like`.

        Raises:
          DamagedCheckpoint: the checkpoint cannot be restored, or does not match its digest.
        """
        import jax
        import orbax.checkpoint as ocp

        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _with_digest(like))
        reason, restored = "", {}
        try:
            with self._manager() as manager, _without_log():
                restored = manager.restore(number, args=ocp.args.StandardRestore(abstract))
        except Exception as error:  # Orbax and TensorStore raise many classes for damaged files
            lines = str(error).strip().splitlines() or [""]
            reason = f"{type(error).__name__}: {cut_off(lines[0], MOST_CHARACTERS)}"
        if reason:
            _discard_unfinished_reads()
            raise DamagedCheckpoint(self._message(number, reason))
        if (restored["sha256"] != _digest_of(restored["tree"])).any():
            raise DamagedCheckpoint(self._message(number, "it does not match its digest"))
        return restored["tree"]

    def _message(self, number: int, reason: str) -> str:
        name = str(self.folder / str(number))
        return f"the checkpoint {name!r} cannot be restored ({reason}), so its trials start again from their start."

    def save(self, number: int, tree: Any) -> None:
        """Saves a state as checkpoint `number`. Orbax writes it atomically, and then deletes the previous one."""
        with explained_os_errors(self.workdir), self._manager() as manager:
            import orbax.checkpoint as ocp

            manager.save(number, args=ocp.args.StandardSave(_with_digest(tree)))
            manager.wait_until_finished()

    def drop(self) -> None:
        """Deletes the checkpoints of a finished job, or damaged checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def _manager(self) -> Iterator[Any]:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True, cleanup_tmp_directories=True)
        manager = ocp.CheckpointManager(self.folder.absolute(), options=options)
        try:
            yield manager
        finally:
            manager.close()


def _with_digest(tree: Any) -> dict[str, Any]:
    """Returns a tree of arrays together with its digest."""
    return {"tree": tree, "sha256": _digest_of(tree)}


def _digest_of(tree: Any) -> "np.ndarray":
    """Returns the sha256 of the names, dtypes, shapes and values of the arrays in a tree: [32] uint8."""
    import jax
    import numpy as np

    contents: list[Any] = []
    for name, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
        array = np.asarray(leaf)
        contents += [f"{jax.tree_util.keystr(name)} {array.dtype} {array.shape}\n", array]
    return np.frombuffer(bytes.fromhex(sha256_of(*contents)), np.uint8)


def _discard_unfinished_reads() -> None:
    """Deletes the coroutines of a failed restore. Each one raises an exception when it is deleted, which is ignored."""
    before, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """Disables the log messages of Orbax about damaged files."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
