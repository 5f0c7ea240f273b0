"""Networks with new units: what stays, what is new, and how large it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.errors import UserError
from jaxft.models import create_model, unit_of
from jaxft.models.grown import root_mean_square
from jaxft.paths import flatten
from jaxft.weights import load, save_weights

NETWORKS = [("cifar_resnet8", 16, "stage3"), ("resnetsmall8", 32, "stage3"), ("wrn10_1", 16, "norm")]


@pytest.fixture(scope="module")
def initialised():
    """Returns a function from a network's name to (model, its variables, images)."""
    made = {}

    def make(name, size_px):
        if name not in made:
            model = create_model(name, 4)
            images = np.random.default_rng(0).normal(size=(2, size_px, size_px, 3)).astype(np.float32)
            made[name] = model, jax.jit(model.init)(jax.random.key(3), images), images
        return made[name]

    return make


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size_px", "last"), NETWORKS)
def test_old_units_keep_names_shapes_and_outputs(name, size_px, last, initialised):
    old, old_variables, images = initialised(name, size_px)
    wide, variables, _ = initialised(f"{name}+wider5", size_px)
    before, after = flatten(old_variables), flatten(variables)
    new = {leaf for leaf in after if leaf not in before}
    assert new == {f"params/{last}_wider/{leaf}" for leaf in ("conv/kernel", "conv/bias", "gain")}
    assert {leaf for leaf in before if before[leaf].shape != after[leaf].shape} == {"params/head/kernel"}
    assert all(np.array_equal(before[leaf], after[leaf]) for leaf in before if leaf != "params/head/kernel")
    was = old.apply(old_variables, images, stop=last)
    now = wide.apply(variables, images, stop=last)
    assert now.shape[-1] == was.shape[-1] + 5
    np.testing.assert_array_equal(now[..., :-5], was)
    assert unit_of(f"{last}_wider/gain", wide.units) == last


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wider", "deeper"])
@pytest.mark.parametrize(("name", "size_px", "last"), NETWORKS)
def test_new_units_are_as_large_as_the_old_at_each_place(name, size_px, last, kind, initialised):
    model, variables, images = initialised(f"{name}+{kind}5", size_px)
    unit = last if kind == "wider" else "deeper"
    out = np.asarray(model.apply(variables, images, stop=unit))
    below = model.units[model.units.index(unit) - 1]
    old = out[..., :-5] if kind == "wider" else model.apply(variables, images, stop=below)
    old, new = np.asarray(root_mean_square(old)), np.asarray(root_mean_square(out[..., -5:]))
    alive = (out[..., -5:] > 0).any(-1, keepdims=True)
    assert alive.mean() > 0.5
    np.testing.assert_allclose(new[alive], old[alive], rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("kind", ["wider", "deeper"])
@pytest.mark.parametrize(("name", "size_px", "last"), NETWORKS)
def test_it_can_be_entered_and_left_anywhere(name, size_px, last, kind, initialised):
    model, variables, images = initialised(f"{name}+{kind}5", size_px)
    whole, x = model.apply(variables, images), images
    for unit in model.units:
        x = model.apply(variables, x, start=unit, stop=unit)
    np.testing.assert_array_equal(x, whole)
    assert all(tap.unit in model.units for tap in model.taps)
    with pytest.raises(ValueError, match="comes after"):
        model.apply(variables, images, start="head", stop="stem")


def test_statistics_move_in_training(initialised):
    model, variables, images = initialised("cifar_resnet8+wider5", 16)
    _, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
    before, after = flatten(variables["batch_stats"]), flatten(updated["batch_stats"])
    assert before.keys() == after.keys() and not any(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_places_where_nothing_is_seen_give_no_nan(initialised):
    model, variables, images = initialised("cifar_resnet8+deeper5", 16)

    def loss(params):
        return model.apply({**variables, "params": params}, 0 * images).sum()

    dead = jax.tree.map(jnp.zeros_like, variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(loss)(dead)))


@pytest.mark.parametrize("kind", ["wider", "deeper"])
@pytest.mark.parametrize("name", ["cifar_resnet8", "resnetsmall8"])
def test_a_saved_one_opens_by_its_name(name, kind, initialised, tmp_path):
    size_px = 32 if name == "resnetsmall8" else 16
    model, variables, _ = initialised(f"{name}+{kind}5", size_px)
    path = tmp_path / "grown.safetensors"
    save_weights(path, model, variables)
    again, manifest = load(path, model)
    assert manifest.model == f"{name}+{kind}5" and create_model(manifest.model, 4) == model
    ours, read = flatten(variables), flatten(again)
    assert all(np.array_equal(ours[leaf], read[leaf]) for leaf in ours)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("squeezenet1_1+wider8", "squeezenet1_1 cannot be grown: its classifier reads maps"),
        ("cifar_resnet8+wider8+deeper8", "cannot be grown: it has new units already"),
        ("cifar_resnet8+wider0", "there is no model 'cifar_resnet8+wider0'"),
    ],
)
def test_what_cannot_be_grown_is_one_sentence(name, message):
    with pytest.raises(UserError) as error:
        create_model(name, 4)
    assert message in str(error.value)
