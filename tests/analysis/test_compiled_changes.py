"""Changes by compiled code: those of XLA, and XLA where the compiled code cannot be used."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxft.analysis import compiled_changes as module
from jaxft.analysis.measures import MEASURES, Measure
from jaxft.analysis.parameters import changes
from jaxft.analysis.sources import load_source, shard_runs, streamed_changes
from jaxft.core.errors import UserError
from jaxft.ops import change_sums
from jaxft.ops.native import Unavailable

NUM_RUNS = 8


@pytest.fixture
def trees():
    """Returns a tree, and the same tree with an axis of eight runs."""
    rng = np.random.default_rng(0)
    shapes = {"conv": {"kernel": (3, 3, 4, 6), "bias": (6,)}, "scale": {"value": ()}, "dense": {"kernel": (300, 200)}}

    def draw(shape):
        return rng.standard_normal(shape).astype(np.float32)

    is_shape = {"is_leaf": lambda x: isinstance(x, tuple)}
    before = jax.tree.map(draw, shapes, **is_shape)
    after = jax.tree.map(lambda w: w + np.float32(0.1) * draw((NUM_RUNS, *w.shape)), before)
    return before, after


@pytest.fixture
def used(monkeypatch):
    """Uses the compiled code for trees of any size, and returns the list of its calls."""
    try:
        change_sums.load()
    except Unavailable as reason:
        pytest.skip(f"there is no compiled code: {reason}")
    calls = []

    def counted(leaves):
        calls.append(len(leaves))
        return change_sums.change_sums(leaves)

    monkeypatch.setattr(module, "MIN_VALUES", 0)
    monkeypatch.setattr(module, "change_sums", counted)
    return calls


def by_xla(*args, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIN_VALUES", np.inf)
        return changes(*args, **options)


def assert_close(found, expected):
    assert list(map(list, found.values())) == list(map(list, expected.values()))  # names, in the same order
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=3e-6)
    assert jax.tree.structure(found) == jax.tree.structure(expected)  # the order of the measures too


@pytest.mark.parametrize("filter_axis", [-1, 0])
def test_the_changes_are_those_of_xla(trees, used, filter_axis):
    before, after = trees
    assert_close(changes(before, after, filter_axis=filter_axis), by_xla(before, after, filter_axis=filter_axis))
    assert used == [4]


def test_one_run_and_own_starts(trees, used):
    before, after = trees
    one = jax.tree.map(lambda w: w[0], after)
    assert_close(changes(before, one), by_xla(before, one))
    starts = jax.tree.map(lambda w: w[::-1], after)
    assert_close(changes(starts, after, own_starts=True), by_xla(starts, after, own_starts=True))
    on_device = jax.tree.map(jnp.asarray, (before, after))
    assert_close(changes(*on_device), by_xla(before, after))
    assert len(used) == 3


def test_constant_leaves_nan_and_no_values(used):
    before = {"a/w": np.zeros((2, 3)), "b/w": np.ones((4, 2)), "c/w": np.ones((0, 2))}
    before = {name: leaf.astype(np.float32) for name, leaf in before.items()}
    after = {name: np.stack([leaf, leaf + 1]) for name, leaf in before.items()}
    after["b/w"][1, 2, 0] = np.nan
    found = changes(before, after)
    assert_close(found, by_xla(before, after))
    assert found["leaf"]["a/w"]["relative_l2"][1] == np.inf and np.isnan(found["leaf"]["a/w"]["cosine"]).all()
    assert np.isnan(found["filter"]["b/w"]["max_abs"]).tolist() == [[False, False], [True, False]]
    assert used


@pytest.fixture
def power():
    """Registers, for one test, a measure that needs a sum of its own."""
    measure = Measure(
        lambda totals: totals.extra["power"], terms={"power": lambda before, after: (after - before) ** 4}
    )
    MEASURES.register("power", measure)
    yield
    del MEASURES.entries["power"]


def test_xla_computes_measures_with_their_own_sums(trees, used, power):
    before, after = trees
    expected = ((after["dense"]["kernel"] - before["dense"]["kernel"]) ** 4).sum((1, 2))
    np.testing.assert_allclose(changes(before, after)["leaf"]["dense/kernel"]["power"], expected, rtol=1e-5)
    assert not used


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_xla_computes_other_types(trees, used, dtype):
    before, after = trees
    before["dense"]["kernel"] = before["dense"]["kernel"].astype(jnp.dtype(dtype))
    assert np.isfinite(changes(before, after)["layer"]["dense"]["l2"]).all()
    assert not used


@pytest.mark.parametrize("why", ["several devices", "no compiler", "small"])
def test_xla_computes_where_the_compiled_code_cannot_be_used(trees, used, why, monkeypatch):
    before, after = trees
    expected = by_xla(before, after)
    if why == "several devices":
        after = shard_runs(after)
    elif why == "no compiler":
        monkeypatch.setattr(module, "change_sums", _raise_unavailable)
    else:
        monkeypatch.setattr(module, "MIN_VALUES", NUM_RUNS * 100_000)
    assert_close(changes(before, after), expected)
    assert not used


def test_leaves_of_integers_are_left_out(trees, used):
    before, after = trees
    before["conv"]["bias"], after["conv"]["bias"] = np.zeros(6, np.int32), np.zeros((NUM_RUNS, 6), np.int32)
    assert "conv/bias" not in changes(before, after)["leaf"] and used == [3]


def _raise_unavailable(leaves):
    raise Unavailable("no C++ compiler, such as g++, is installed")


def test_runs_are_streamed_from_files_in_blocks(trees, used, tmp_path, monkeypatch):
    before, after = trees
    flat = {"/".join(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(after)}
    for i in range(NUM_RUNS):
        save_file({name: np.array(leaf[i]) for name, leaf in flat.items()}, tmp_path / f"{i}.safetensors")
    paths = [tmp_path / f"{i}.safetensors" for i in range(NUM_RUNS)]
    expected = by_xla(before, after)
    monkeypatch.setattr("jaxft.analysis.sources.BLOCK_BYTES", 3 * 4 * (60_000 + 216 + 6 + 1))
    found = streamed_changes(before, paths)
    assert_close(found, expected)
    assert used == [4, 4, 4]  # three blocks: of 3, 3 and 2 runs


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "float32", "float8_e4m3fn"])
def test_files_of_every_type_are_loaded(dtype, tmp_path):
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    tensors = {
        "w": np.arange(6).reshape(2, 3).astype(kind),
        "empty": np.zeros((0, 2), kind),
        "scalar": np.array(2, kind),
        "count": np.array([1], np.int64),
        "mask": np.array([True]),
    }
    save_file(tensors, tmp_path / "w.safetensors", metadata={"made by": "a test"})
    loaded = load_source(tmp_path / "w.safetensors")
    assert sorted(loaded) == ["empty", "scalar", "w"]
    for name, array in loaded.items():
        assert array.dtype == tensors[name].dtype and array.shape == tensors[name].shape
        np.testing.assert_array_equal(array, tensors[name])


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"w": np.ones((20, 30), np.float32)}, path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="cannot be read as a safetensors file"):
        load_source(path)
