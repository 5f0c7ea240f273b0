"""Checkpoints: a damaged one is dropped, and its trial starts again with the same results."""

import random
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.store.checkpoints import DamagedCheckpoint
from jaxft.store.records import Store

# Orbax does not close the coroutines of the arrays that it no longer reads.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")

TREE = {
    "state": (jnp.arange(6.0).reshape(2, 3), {"count": jnp.int32(4), "wide": jnp.ones((40, 50))}),
    "history": np.full((2, 4), np.nan),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Returns the folder of a job with checkpoint 7; tests only read it."""
    store = Store.create(tmp_path_factory.mktemp("saved") / "work")
    store.checkpoints("k").save(7, TREE)
    return store.workdir


def kinds(workdir):
    """Returns one file of each kind in a checkpoint, by its name without numbers and hashes."""
    root = workdir / "checkpoints" / "k" / "7"
    files = sorted(path.relative_to(workdir) for path in root.rglob("*") if path.is_file())
    by_kind = {}
    for path in files:
        name = path.name if len(path.name) < 30 else "data"
        by_kind.setdefault(f"{path.parent.name}/{name}", path)
    return by_kind


def cut(content):
    return content[: len(content) // 2]


def empty(content):
    return b""


def zeros(content):
    return bytes(len(content))


def test_there_are_files_of_several_kinds(saved):
    assert len(kinds(saved)) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut, empty, zeros, None])
def test_a_damaged_file_is_found_or_does_not_matter(saved, tmp_path, damage):
    """Each kind of file of a checkpoint is cut, emptied, zeroed or deleted (None)."""
    num_found = 0
    for number, file in enumerate(kinds(saved).values()):
        workdir = shutil.copytree(saved, tmp_path / str(number))
        if damage is None:
            (workdir / file).unlink()
        else:
            (workdir / file).write_bytes(damage((workdir / file).read_bytes()))
        num_found += is_found(workdir)
    assert num_found >= 2


@pytest.mark.slow
def test_a_flipped_bit_is_found_or_does_not_matter(saved, tmp_path):
    rng = random.Random(0)
    num_found = 0
    for number, file in enumerate(list(kinds(saved).values()) * 2):
        workdir = shutil.copytree(saved, tmp_path / str(number))
        content = bytearray((workdir / file).read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (workdir / file).write_bytes(content)
        num_found += is_found(workdir)
    assert num_found


def is_found(workdir):
    """Returns whether loading finds damage; otherwise all values are right."""
    checkpoints = Store(workdir).checkpoints("k")
    try:
        restored = checkpoints.load(7, TREE)
    except DamagedCheckpoint as error:
        message = str(error).replace(str(workdir), "")
        assert "cannot be restored" in message and "start again from their start" in message and len(message) < 300
        return True
    np.testing.assert_array_equal(restored["state"][0], TREE["state"][0])
    np.testing.assert_array_equal(restored["state"][1]["wide"], TREE["state"][1]["wide"])
    np.testing.assert_array_equal(restored["history"], TREE["history"])
    assert restored["state"][1]["count"] == 4
    return False


def test_altered_values_do_not_match_the_digest(saved, tmp_path):
    """A whole checkpoint with other values, under the digest of the first one."""
    import orbax.checkpoint as ocp

    store = Store.create(tmp_path / "work")
    first, folder = TREE | {"history": np.zeros((2, 4))}, tmp_path / "work" / "checkpoints" / "k"
    with ocp.CheckpointManager(folder) as manager:
        from jaxft.store.checkpoints import _digest_of

        manager.save(1, args=ocp.args.StandardSave({"tree": first, "sha256": _digest_of(TREE)}))
        manager.wait_until_finished()
    with pytest.raises(DamagedCheckpoint, match="it does not match its digest"):
        store.checkpoints("k").load(1, TREE)


def test_a_half_committed_checkpoint_is_not_the_latest(saved, tmp_path):
    workdir = shutil.copytree(saved, tmp_path / "work")
    folder = workdir / "checkpoints" / "k"
    shutil.copytree(folder / "7", folder / "9.orbax-checkpoint-tmp-1")
    checkpoints = Store(workdir).checkpoints("k")
    assert checkpoints.latest() == 7
    checkpoints.save(8, TREE)
    assert checkpoints.latest() == 8 and sorted(path.name for path in folder.iterdir()) == ["8"]


def test_an_empty_checkpoint_is_damaged(tmp_path):
    (tmp_path / "work" / "checkpoints" / "k" / "7").mkdir(parents=True)
    checkpoints = Store(tmp_path / "work").checkpoints("k")
    assert checkpoints.latest() == 7
    with pytest.raises(DamagedCheckpoint):
        checkpoints.load(7, TREE)
