"""What frozen units say of images: the same as computing it at every step, computed once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft import paths
from jaxft.config import Procedure
from jaxft.data.augment import Changes
from jaxft.data.batches import batch_indices
from jaxft.execute import Lane, make_program, run_chunk
from jaxft.features import BLOCK, FeatureCache, Prefix
from jaxft.models import Preprocessing, create_model
from jaxft.optim import make_hparams, resolve_layers
from jaxft.train import make_phases
from jaxft.weights import init_variables

SIZE, NUM = 8, 40
MODEL = create_model("cifar_resnet8", num_classes=3)
PLAIN = Preprocessing(SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (NUM, SIZE, SIZE, 3)), jnp.uint8)
VARIABLES = init_variables(MODEL, jax.random.key(0), SIZE)
FLAT = {collection: paths.flatten(leaves) for collection, leaves in VARIABLES.items()}


def ask(cache, indices, unit="stage2/block1", changes=Changes(flip=True, crop_scale_min=0.5), told=None):  # noqa: B008
    say = (lambda line: told.append(line)) if told is not None else (lambda line: None)
    return cache.outputs(prefix(unit, changes), np.asarray(indices), say)


def prefix(unit="stage2/block1", changes=Changes(), variables=FLAT, through=None):  # noqa: B008
    return Prefix(MODEL, PLAIN, unit, variables, IMAGES, "images", changes, jax.random.PRNGKey(3), through)


def test_outputs_are_the_networks():
    rows = np.array([3, 39, 0])
    expected = MODEL.apply(VARIABLES, PLAIN.apply(IMAGES[rows]), stop="stage2/block1")
    np.testing.assert_allclose(ask(FeatureCache(1e9), rows), expected, rtol=1e-4, atol=1e-5)


def test_bits_do_not_depend_on_what_else_is_asked_for():
    every = ask(FeatureCache(1e9), np.arange(3 * NUM))
    some = np.array([NUM + 38, 5, 2 * NUM, 5])
    np.testing.assert_array_equal(ask(FeatureCache(1e9), some), every[some])


def test_nothing_is_computed_twice():
    cache, told = FeatureCache(1e9), []
    ask(cache, np.arange(NUM), told=told)
    assert len(told) == 2  # 40 images are two blocks
    ask(cache, [0, BLOCK + 1], told=told)
    assert len(told) == 2
    ask(cache, [NUM + 1], told=told)  # a view of an image is another picture
    ask(cache, [1], unit="stage1/block1", told=told)
    assert len(told) == 4
    other = {"params": {n: leaf + 1 for n, leaf in FLAT["params"].items()}, "batch_stats": FLAT["batch_stats"]}
    cache.outputs(prefix(variables=other), np.array([1]), told.append)
    assert len(told) == 5


def test_weights_of_later_units_do_not_matter():
    cache, told = FeatureCache(1e9), []
    later = {n: leaf + n.startswith("head") for n, leaf in FLAT["params"].items()}
    for params in (FLAT["params"], later):
        cache.outputs(prefix(variables=FLAT | {"params": params}), np.array([1]), told.append)
    assert len(told) == 1


def test_a_prefix_goes_on_from_a_shorter_one_and_keeps_both():
    cache, told = FeatureCache(1e9), []
    through = cache.outputs(prefix("pool", through=prefix("stage1/block1")), np.array([3, 35]), told.append)
    np.testing.assert_allclose(through, ask(FeatureCache(1e9), [3, 35], "pool"), rtol=1e-4, atol=1e-5)
    assert len(told) == 2
    cache.outputs(prefix("stage1/block1"), np.array([3, 35]), told.append)
    assert len(told) == 2


def test_what_was_used_longest_ago_is_dropped_first():
    block = BLOCK * 16 * 4 * 4 * 4 * 2  # 32 channels on a map of 4 x 4, four bytes each
    cache, told = FeatureCache(block * 1.5), []
    assert cache.fits(prefix(), np.arange(BLOCK)) and not cache.fits(prefix(), np.array([0, BLOCK]))
    for row in (0, BLOCK, BLOCK, 0):
        ask(cache, [row], told=told)
    assert len(told) == 3


def test_what_is_kept_is_whole_blocks_and_the_shorter_prefix_too():
    """A block of 32 images: 32 channels on 4 x 4 after stage2, 16 on 8 x 8 after stage1, four bytes a value."""
    both = prefix(through=prefix("stage1/block1"))
    block, through = (BLOCK * values * 4 for values in (32 * 4 * 4, 16 * 8 * 8))
    assert FeatureCache(block + through).fits(both, np.array([3]))
    assert not FeatureCache(block + through - 1).fits(both, np.array([3]))


def trained(features, **fields):
    """Returns the outcome of a short trial of 12 images, with or without kept features."""
    fields = {"init": "random", "epochs": 3.0, "batch_size": 5, "learning_rate": 0.05, **fields}
    procedure = Procedure(**fields)
    layers = resolve_layers(procedure, FLAT["params"])
    phases = make_phases(MODEL, PLAIN, procedure, layers, tuple(FLAT["batch_stats"]), 12)
    program = make_program(phases, "last", eval_batch_size=16, num_train=12)
    rows, labels = np.arange(NUM, dtype=np.int32), (np.arange(NUM) % 3).astype(np.int32)
    parts = rows[:12], rows[12:20], rows[20:]
    lane = Lane(
        FLAT["params"], FLAT["batch_stats"], make_hparams(procedure, layers), labels, *parts, 0, jax.random.PRNGKey(1)
    )
    return run_chunk(program, [lane], IMAGES, features=features, fingerprint="images")[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"body_learning_rate": "frozen"},
        pytest.param({"probe_epochs": 2.0}, marks=pytest.mark.slow),
        {"layer_rates": (("(stem|stage1)/.*", "frozen"),), "views": 3, "flip": True, "crop_scale_min": 0.5},
        pytest.param(
            {"probe_epochs": 2.0, "views": 2, "flip": True, "layer_rates": (("stem/.*", "frozen"),)},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["frozen", "probe", "views", "probe-views"],
)
def test_kept_features_give_what_computing_them_at_every_step_gives(fields):
    cache = FeatureCache(1e9)
    kept, computed = trained(cache, **fields), trained(None, **fields)
    assert cache._kept  # features were kept, or the two are the same road
    for name, leaf in kept.params.items():
        np.testing.assert_allclose(leaf, computed.params[name], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(kept.curves["train_loss"], computed.curves["train_loss"], rtol=1e-3)
    np.testing.assert_array_equal(kept.test_predictions, computed.test_predictions)


@pytest.mark.parametrize("fields", [{"flip": True, "body_learning_rate": "frozen"}, {}], ids=["random", "no prefix"])
def test_what_varies_is_not_kept(fields):
    cache = FeatureCache(1e9)
    trained(cache, **fields)
    assert not cache._kept


def test_each_pass_has_the_next_view():
    rows = np.array([2, 5, 7, 9], np.int32)
    indices = batch_indices(rows, 0, 0, 6, 2, views=2, num_images=10)
    plain = batch_indices(rows, 0, 0, 6, 2)
    np.testing.assert_array_equal(indices % 10, plain)
    np.testing.assert_array_equal(indices // 10, np.repeat([0, 1, 0], 2)[:, None] * np.ones((1, 2), int))


def test_views_of_one_seed_are_one_group():
    """Trials whose views differ do not run side by side: features are shared."""
    phases = make_phases(
        MODEL, PLAIN, Procedure(flip=True, views=2), resolve_layers(Procedure(), FLAT["params"]), (), 12
    )
    assert phases[0].views == 2 and dataclasses.replace(phases[0], views=0) != phases[0]
