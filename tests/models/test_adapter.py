"""Networks from any Flax module: run from and up to each block, fine-tuned, saved."""

import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import counted_run

import jaxft
from jaxft.config import Study, from_dict
from jaxft.core import paths
from jaxft.models import Family, Preprocessing, adapt, create_model, register_family
from jaxft.models.initialization import init_head, init_variables
from jaxft.models.layers import branch
from jaxft.models.registry import FAMILIES
from jaxft.store.records import Store
from jaxft.study.plan import make_plan
from jaxft.weights import load_weights, save_weights

PLAIN = Preprocessing(8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
BLOCKS = ("patches", "mixers/first", "mixers/second", "norm", "classifier")


class Mixer(nn.Module):
    """Two dense layers over the channels, with a shortcut."""

    features: int

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(self.features, name="up")(nn.LayerNorm(name="norm")(x))
        return x + branch(self, nn.Dense(self.features, name="down")(nn.gelu(y)))


class Mixers(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x):
        x = Mixer(self.features, name="first")(x)
        return Mixer(self.features, name="second")(2 * x)


class Patches(nn.Module):
    """A network of no family: patches, two mixers with a multiplication between them, a norm, a mean and a head."""

    num_classes: int
    features: int = 6

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(self.features, (4, 4), (4, 4), name="patches")(images)
        x = nn.relu(x).reshape(len(x), -1, self.features)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(Mixers(self.features, name="mixers")(x))
        return nn.Dense(self.num_classes, name="classifier")(x.mean(1))


class Skipping(nn.Module):
    """A network whose head also depends on the stem."""

    @nn.compact
    def __call__(self, x):
        stem = nn.Conv(4, (3, 3), name="stem")(x)
        top = nn.Conv(4, (3, 3), name="top")(stem)
        return nn.Dense(3, name="head")((stem + top).mean((1, 2)))


@pytest.fixture(scope="module")
def network():
    """Returns the network of `Patches`, its variables, and images."""
    model = adapt(Patches(3), BLOCKS, PLAIN, residual_blocks=["mixers/first", "mixers/second"])
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)
    return model, init_variables(model, jax.random.key(1), 8), images


def test_parameters_and_outputs_equal_those_of_the_module(network):
    model, variables, images = network
    module = Patches(3)
    plain = module.init(jax.random.key(1), images, train=False)
    assert paths.flatten(plain).keys() == paths.flatten(variables).keys()
    np.testing.assert_array_equal(model.apply(variables, images), module.apply(variables, images, train=False))


def test_an_adapted_network_can_stop_at_each_block_and_continue_after_it(network):
    model, variables, images = network
    whole, x = model.apply(variables, images), images
    for below, block in itertools.pairwise((None, *model.blocks)):
        assert np.isfinite(x).all()
        np.testing.assert_allclose(model.apply(variables, x, after=below), whole, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(x := model.apply(variables, x, after=below, stop=block),
                                   model.apply(variables, images, stop=block), rtol=1e-6, atol=1e-6)  # fmt: skip
    np.testing.assert_allclose(x, whole, rtol=1e-6, atol=1e-6)
    assert model.apply(variables, x, after=model.head) is x
    with pytest.raises(ValueError, match="stop='patches' comes before after='norm'"):
        model.apply(variables, images, after="norm", stop="patches")


def test_computation_between_two_blocks_belongs_to_the_first(network):
    """The features are the input of the head: the mean over the patches, after the norm."""
    model, variables, images = network
    features = model.apply(variables, images, stop=model.feature_block)
    assert features.shape == (5, 6)
    head = variables["params"]["classifier"]
    np.testing.assert_allclose(
        features @ head["kernel"] + head["bias"].reshape(1, -1), model.apply(variables, images), atol=1e-6
    )


def test_head_norms_and_taps_are_derived_from_the_module(network):
    model, _, _ = network
    assert (model.head, model.feature_block, model.num_classes, model.has_linear_head) == (
        "classifier",
        "norm",
        3,
        True,
    )
    assert set(model.norms) == {"mixers/first/norm", "mixers/second/norm", "norm"}
    assert model.decayed == {leaf for leaf in model.structure.parameters if leaf.endswith("kernel")}
    assert model.taps == ()  # the module flattens the patches after the first block
    assert model.residual_blocks == ("mixers/first", "mixers/second")


def test_training_updates_statistics_and_a_new_head_is_initialized_alone(network):
    model, variables, images = network
    _, updated = model.apply(variables, images, train=True, mutable=["batch_stats"], stop="norm")
    assert (updated["batch_stats"]["norm"]["mean"] != 0).all()
    head = init_head(model, jax.random.key(2), 8)
    assert paths.flatten(head).keys() == {"params/classifier/kernel", "params/classifier/bias"}


def test_gradients_above_a_frozen_prefix_equal_those_of_the_whole_network(network):
    """A network that starts above a frozen prefix has the same gradients above it as the whole network."""
    model, variables, images = network
    prefix = model.apply(variables, images, stop="mixers/first")

    def loss(params, x, after):
        logits = model.apply({**variables, "params": params}, x, after=after)
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.array([0, 1, 2, 0, 1])).mean()

    whole, above = (paths.flatten(jax.grad(loss)(variables["params"], *args)) for args in
                    ((images, None), (prefix, "mixers/first")))  # fmt: skip
    for name, value in above.items():
        below = name.startswith(("patches", "mixers/first"))
        np.testing.assert_allclose(value, 0 if below else whole[name], rtol=1e-5, atol=1e-7)


def test_an_adapted_network_is_saved_under_its_leaf_names(network, tmp_path):
    model, variables, _ = network
    save_weights(tmp_path / "patches.safetensors", model, variables)
    again = load_weights(tmp_path / "patches.safetensors", model)
    ours, read = paths.flatten(variables), paths.flatten(again)
    assert ours.keys() == read.keys() and all(np.array_equal(ours[name], read[name]) for name in ours)


@pytest.mark.parametrize(
    ("module", "blocks", "message"),
    [
        (
            Skipping(),
            ["stem", "top", "head"],
            "skipping cannot continue after block 'stem'",
        ),
        (
            Skipping(),
            ["top", "stem", "head"],
            "block 1 of skipping is top in the list of blocks, but stem in the module",
        ),
        (
            Skipping(),
            ["stem", "topp", "head"],
            "block 2 of skipping is topp in the list of blocks, but head in the module",
        ),
        (
            Skipping(),
            ["top", "head"],
            "skipping has 2 parameters or statistics outside its blocks",
        ),
        (Skipping(), ["head"], "skipping has 1 block; list at least two, with the head last"),
    ],
    ids=["skip", "order", "name", "outside", "one"],
)
def test_invalid_blocks_are_refused(module, blocks, message):
    with pytest.raises(jaxft.UserError, match=message):
        adapt(module, blocks, PLAIN)


class Flattening(nn.Module):
    """A network that multiplies the images before its first block."""

    @nn.compact
    def __call__(self, images):
        x = nn.Dense(4, name="hidden")(2 * images.reshape(len(images), -1))
        return nn.Dense(3, name="head")(nn.relu(x))


def test_the_input_of_the_first_block_is_images():
    model = adapt(Flattening(), ["hidden", "head"], PLAIN)
    variables = init_variables(model, jax.random.key(0), 8)
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)
    hidden = model.apply(variables, images, stop="hidden")
    expected = np.maximum(2 * images.reshape(5, -1) @ variables["params"]["hidden"]["kernel"], 0)  # up to the head
    np.testing.assert_allclose(hidden, expected, atol=1e-5)
    np.testing.assert_array_equal(model.apply(variables, hidden, after="hidden"), model.apply(variables, images))


@pytest.fixture
def registered(monkeypatch):
    """Registers the network as a family, as a plug-in does, during a test."""
    create_model("toy", 2)  # registers the built-in families
    monkeypatch.setattr(FAMILIES, "entries", dict(FAMILIES.items()))
    register_family(
        Family("patches", ("patches",), "for tests", lambda num_classes: adapt(Patches(num_classes), BLOCKS, PLAIN))
    )


def test_two_families_with_the_same_name_are_refused(registered):
    with pytest.raises(jaxft.UserError, match="two families of networks use the name 'patches'"):
        register_family(Family("patch.*", (), "", lambda num_classes: None))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "trained"),
    [
        ({}, ""),
        ({"layers.rates": [("(patches|mixers/first)/.*", "frozen")]}, "(mixers/second|norm|classifier)/"),
        ({"layers.tune": "head"}, "classifier/"),
        ({"layers.tune": "batch_norm"}, "(.*/)?norm/|classifier/"),
        ({"layers.tune": "lora"}, ".*/kernel|classifier/"),
        (
            {"initialization.transferred_blocks": "mixers/first", "initialization.transferred": "frozen"},
            "(mixers/second|norm|classifier)/",
        ),
    ],
    ids=["all", "frozen prefix", "head", "norms", "low-rank", "first blocks"],
)
def test_a_study_fine_tunes_an_adapted_network(training, trained, registered, tmp_path):
    """Trained parameters change; all others are bit-identical to the source."""
    common = {"schedule.epochs": 2.0, "batches.size": 8, "optimizer.learning_rate": 0.05}
    digits = {"data": "digits", "train_per_class": 4, "val_per_class": 2, "size_px": 8}
    source = {"model": "patches", "images": digits, "training": common}
    study = from_dict(Study, {"seeds": 1, "source": source, "target": digits, "training": common | training})
    plan = make_plan(study)
    (trial,) = plan.groups[0].trials
    assert counted_run(tmp_path, study) == (1, 1, 0)
    store = Store(tmp_path)
    model = trial.model
    paths_of = store.weights_path(trial.source.digest, "sources"), store.weights_path(trial.digest)
    before, after = (paths.flatten(load_weights(path, model)["params"]) for path in paths_of)
    for name in model.structure.parameters:
        changed = not np.array_equal(before[name], after[name])
        assert changed == bool(re.match(trained, name)), name
