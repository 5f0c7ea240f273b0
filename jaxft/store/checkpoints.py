"""Checkpoints of an unfinished job, saved by Orbax."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxft.core.files import explained_os_errors


class StoredCheckpoints:
    """The latest checkpoint of the job `key`, in a folder that the first save creates."""

    def __init__(self, workdir: Path, key: str):
        self.workdir, self.folder = workdir, workdir / "checkpoints" / key

    def latest(self) -> int | None:
        """Returns the number of the latest checkpoint, or None if there is no checkpoint."""
        if not self.folder.is_dir():
            return None
        with self._manager() as manager:
            return manager.latest_step()

    def load(self, number: int, like: Any) -> Any:
        """Returns the state of checkpoint `number`, with the structure of `like`."""
        import jax
        import orbax.checkpoint as ocp

        with self._manager() as manager:
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            return manager.restore(number, args=ocp.args.StandardRestore(abstract))

    def save(self, number: int, tree: Any) -> None:
        """Saves a state as checkpoint `number`. Orbax writes it atomically, and then deletes the previous one."""
        with explained_os_errors(self.workdir), self._manager() as manager:
            import orbax.checkpoint as ocp

            manager.save(number, args=ocp.args.StandardSave(tree))
            manager.wait_until_finished()

    def drop(self) -> None:
        """Deletes the checkpoints of a finished job."""
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
