"""Checkpoints of one piece of unfinished work, by Orbax."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxft.core.files import explained_os_errors


class StoredCheckpoints:
    """The last checkpoint of the piece of work `key`, in a folder of its own that is made when one is saved."""

    def __init__(self, workdir: Path, key: str):
        self.workdir, self.folder = workdir, workdir / "checkpoints" / key

    def latest(self) -> int | None:
        """Returns the place of the last checkpoint, or None where there is none."""
        if not self.folder.is_dir():
            return None
        with self._manager() as manager:
            return manager.latest_step()

    def load(self, number: int, like: Any) -> Any:
        """Returns the state that was saved at `number`, with the structure of `like`."""
        import jax
        import orbax.checkpoint as ocp

        with self._manager() as manager:
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            return manager.restore(number, args=ocp.args.StandardRestore(abstract))

    def save(self, number: int, tree: Any) -> None:
        """Saves the state at `number`; Orbax commits it whole, and then drops the one before."""
        with explained_os_errors(self.workdir), self._manager() as manager:
            import orbax.checkpoint as ocp

            manager.save(number, args=ocp.args.StandardSave(tree))
            manager.wait_until_finished()

    def drop(self) -> None:
        """Removes the checkpoint, as the work is finished."""
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
