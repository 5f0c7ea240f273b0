"""Checkpoints of one piece of unfinished work, by Orbax."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxft.core.files import saying_what_is_wrong


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

    def load(self, place: int, like: Any) -> Any:
        """Returns the state that was saved at `place`, with the structure of `like`."""
        import jax
        import orbax.checkpoint as ocp

        with self._manager() as manager:
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            return manager.restore(place, args=ocp.args.StandardRestore(abstract))

    def save(self, place: int, tree: Any) -> None:
        """Saves the state at `place`; Orbax commits it whole, and then drops the one before."""
        with saying_what_is_wrong(self.workdir), self._manager() as manager:
            import orbax.checkpoint as ocp

            manager.save(place, args=ocp.args.StandardSave(tree))
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
