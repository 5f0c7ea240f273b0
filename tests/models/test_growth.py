"""Networks with new units: names, shapes, scale, and bit-identical old units."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draw_variables

from jaxft.core.errors import UserError
from jaxft.core.paths import flatten, unflatten
from jaxft.models import block_of, create_model
from jaxft.models.growth import root_mean_square
from jaxft.models.initialization import init_variables
from jaxft.models.structure import expected_shapes
from jaxft.weights import load, save_weights

NETWORKS = [("toy", 8, "stage2"), ("resnetsmall8", 16, "stage3"), ("wrn10_1", 8, "norm")]


@pytest.fixture(scope="module")
def drawn():
    """Returns a function from the name of a network to (model, variables, images); gains of new units are 1."""

    @functools.cache
    def draw(name, size_px):
        model = create_model(name, 4)
        images = np.random.default_rng(0).normal(size=(2, size_px, size_px, 3)).astype(np.float32)
        flat = flatten(draw_variables(model, size_px))
        flat |= {leaf: jnp.ones_like(value) for leaf, value in flat.items() if leaf.endswith("/gain")}
        return model, unflatten(flat), images

    return draw


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size_px", "last"), NETWORKS)
def test_old_units_keep_names_shapes_and_outputs(name, size_px, last, drawn):
    wide, variables, images = drawn(f"{name}+wider5", size_px)
    old = create_model(name, 4)
    before, after = expected_shapes(old, size_px), expected_shapes(wide, size_px)
    new = {leaf for leaf in after if leaf not in before}
    assert new == {f"params/{last}_wider/{leaf}" for leaf in ("conv/kernel", "conv/bias", "gain")}
    assert {leaf for leaf in before if before[leaf] != after[leaf]} == {"params/head/kernel"}
    old_variables = unflatten({leaf: value for leaf, value in flatten(variables).items() if leaf in before})
    old_maps = old.apply(old_variables, images, stop=last)
    maps = wide.apply(variables, images, stop=last)
    assert maps.shape[-1] == old_maps.shape[-1] + 5
    np.testing.assert_array_equal(maps[..., :-5], old_maps)
    assert block_of(f"{last}_wider/gain", wide.blocks) == last


@pytest.mark.slow
def test_new_units_do_not_change_the_initialization_of_old_units():
    before, after = (flatten(init_variables(create_model(n, 4), jax.random.key(3), 8)) for n in ("toy", "toy+wider5"))
    assert all(np.array_equal(before[leaf], after[leaf]) for leaf in before if leaf != "params/head/kernel")
    assert (after["params/stage2_wider/gain"] == 1).all()


@pytest.mark.parametrize("kind", ["wider", "deeper"])
@pytest.mark.parametrize(("name", "size_px", "last"), NETWORKS)
def test_new_units_have_the_root_mean_square_of_the_old_at_each_position(name, size_px, last, kind, drawn):
    model, variables, images = drawn(f"{name}+{kind}5", size_px)
    block = last if kind == "wider" else "deeper"
    out = np.asarray(model.apply(variables, images, stop=block))
    below = model.blocks[model.blocks.index(block) - 1]
    old = out[..., :-5] if kind == "wider" else model.apply(variables, images, stop=below)
    old, new = np.asarray(root_mean_square(old)), np.asarray(root_mean_square(out[..., -5:]))
    alive = (out[..., -5:] > 0).any(-1, keepdims=True)
    assert alive.mean() > 0.5
    np.testing.assert_allclose(new[alive], old[alive], rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("kind", ["wider", "deeper"])
@pytest.mark.parametrize(("name", "size_px", "last"), NETWORKS)
def test_a_grown_network_can_stop_at_each_block_and_continue_after_it(name, size_px, last, kind, drawn):
    model, variables, images = drawn(f"{name}+{kind}5", size_px)
    whole, x = model.apply(variables, images), images
    for below, block in itertools.pairwise((None, *model.blocks)):
        x = model.apply(variables, x, after=below, stop=block)
    np.testing.assert_array_equal(x, whole)
    assert all(tap.block in model.blocks for tap in model.taps)
    assert model.apply(variables, x, after="head") is x
    middle = model.apply(variables, images, stop=model.blocks[1])
    np.testing.assert_array_equal(model.apply(variables, middle, after=model.blocks[1]), whole)
    with pytest.raises(ValueError, match="stop='stem' comes before after='head'"):
        model.apply(variables, images, after="head", stop="stem")


def test_training_updates_all_statistics(drawn):
    model, variables, images = drawn("toy+wider5", 8)
    _, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
    before, after = flatten(variables["batch_stats"]), flatten(updated["batch_stats"])
    assert before.keys() == after.keys() and not any(np.array_equal(before[name], after[name]) for name in before)


def test_zero_activations_give_finite_gradients(drawn):
    model, variables, images = drawn("toy+deeper5", 8)

    def loss(params):
        return model.apply({**variables, "params": params}, 0 * images).sum()

    dead = jax.tree.map(jnp.zeros_like, variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(dead)))


@pytest.mark.parametrize("kind", ["wider", "deeper"])
@pytest.mark.parametrize("name", ["toy", "resnetsmall8"])
def test_a_saved_grown_network_loads_by_its_name(name, kind, drawn, tmp_path):
    model, variables, _ = drawn(f"{name}+{kind}5", 16 if name == "resnetsmall8" else 8)
    path = tmp_path / "grown.safetensors"
    save_weights(path, model, variables)
    again, manifest = load(path, model)
    assert manifest.model == f"{name}+{kind}5" and create_model(manifest.model, 4) == model
    ours, read = flatten(variables), flatten(again)
    assert all(np.array_equal(ours[leaf], read[leaf]) for leaf in ours)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("squeezenet1_1+wider8", "squeezenet1_1 cannot be grown: it has no pooling layer below its classifier"),
        ("cifar_resnet8+wider8+deeper8", "cannot be grown: it already has new units"),
        ("cifar_resnet8+wider0", "there is no model 'cifar_resnet8+wider0'"),
    ],
)
def test_a_network_that_cannot_be_grown_is_refused(name, message):
    with pytest.raises(UserError) as error:
        create_model(name, 4)
    assert message in str(error.value)
