"""The model contract, and parity with the published networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxft
from jaxft import paths
from jaxft.models import create_model, families, unit_of
from jaxft.nn import BatchNorm
from jaxft.weights import init_variables, load


@pytest.fixture(scope="module", params=["cifar_resnet14", "resnetsmall14"])
def network(request):
    model = create_model(request.param, num_classes=5)
    return model, init_variables(model, jax.random.key(1), 32)


def images(n=2, size=32):
    return jnp.asarray(np.random.default_rng(5).normal(size=(n, size, size, 3)), jnp.float32)


def test_every_listed_model_has_the_depth_in_its_name():
    for name in jaxft.list_models():
        model = create_model(name, num_classes=7)
        depth = int(name.rpartition("t" if "cifar" in name else "l")[2])
        assert model.architecture == name
        # Units: the stem, (depth - 2) / 2 blocks of two convolutions, the head.
        assert len(model.units) == (depth - 2) // 2 + 2


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # He et al. 2016, table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million for 20, 32, 44, 56 and 110 layers.
        ("cifar_resnet20", 269_722),
        ("cifar_resnet32", 464_154),
        ("cifar_resnet56", 853_018),
    ],
)
def test_numbers_of_parameters(name, values):
    params = jax.eval_shape(lambda: init_variables(create_model(name, 10), jax.random.key(0), 32))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == values


@pytest.mark.parametrize("name", ["cifar_resnet9", "resnetsmall2", "cifar_resnet0"])
def test_impossible_depth(name):
    with pytest.raises(jaxft.UserError, match="6n \\+ 2"):
        create_model(name, 10)


def test_unknown_model_is_guessed():
    with pytest.raises(jaxft.UserError, match="did you mean 'cifar_resnet20'"):
        create_model("cifar_resnet_20", 10)


def test_a_network_can_be_left_and_entered_at_every_unit(network):
    model, variables = network
    whole = model.apply(variables, images())
    assert whole.shape == (2, 5)
    for before, after in zip(model.units, model.units[1:]):
        middle = model.apply(variables, images(), stop=before)
        np.testing.assert_array_equal(model.apply(variables, middle, start=after), whole)


def test_one_unit_alone(network):
    model, variables = network
    entered = model.apply(variables, images(), stop="stage1/block2")
    alone = model.apply(variables, entered, start="stage2/block1", stop="stage2/block1")
    np.testing.assert_array_equal(alone, model.apply(variables, images(), stop="stage2/block1"))


def test_every_leaf_belongs_to_a_unit(network):
    model, variables = network
    found = {unit_of(name, model.units) for name in paths.flatten(variables["params"])}
    assert found == set(model.units)


def test_taps_say_stride_and_receptive_field(network):
    """A pixel outside of a tap's receptive field does not move it, one on its rim does."""
    model, variables = network
    rng = np.random.default_rng(0)
    size = 64
    for tap in model.taps[:2]:  # the later fields are wider than the image
        x = jnp.asarray(rng.normal(size=(1, size, size, 3)), jnp.float32)
        out = model.apply(variables, x, stop=tap.unit)
        assert out.shape[1] == size // tap.stride_px
        centre = out.shape[1] // 2
        reach = tap.receptive_field_px // 2
        rim = model.apply(variables, x.at[0, centre, centre + reach].add(100.0), stop=tap.unit)
        outside = model.apply(variables, x.at[0, centre, centre + reach + 1].add(100.0), stop=tap.unit)
        assert (rim[0, centre, centre] != out[0, centre, centre]).any()
        assert (outside[0, centre, centre] == out[0, centre, centre]).all()


def test_train_changes_statistics_only(network):
    model, variables = network
    _, updated = model.apply(variables, images(8), train=True, mutable=["batch_stats"])
    assert set(updated) == {"batch_stats"}
    before, after = paths.flatten(variables["batch_stats"]), paths.flatten(updated["batch_stats"])
    assert before.keys() == after.keys()
    assert all((before[name] != after[name]).any() for name in before)


def test_batch_norm_by_hand():
    # Values 1, 3 (mean 2, biased variance 1, unbiased 2): normalised -1, 1; statistics move by a tenth.
    norm = BatchNorm(epsilon=0.0)
    x = jnp.array([[1.0], [3.0]])
    variables = norm.init(jax.random.key(0), x)
    y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, [[-1.0], [1.0]], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [0.2], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], [0.9 + 0.1 * 2], rtol=1e-6)


def test_batch_norm_against_torch():
    torch = pytest.importorskip("torch", reason="needs torch")
    rng = np.random.default_rng(2)
    x, target = rng.normal(3, 2, (4, 5, 6, 7)), rng.normal(size=(4, 5, 6, 7))
    theirs = torch.nn.BatchNorm2d(7).double()
    their_x = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    ((theirs(their_x) - torch.tensor(target.transpose(0, 3, 1, 2))) ** 2).sum().backward()
    with jax.enable_x64(True):
        norm = BatchNorm()
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), norm.init(jax.random.key(0), jnp.asarray(x)))

        def loss(x):
            y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
            return jnp.square(y - target).sum(), updated["batch_stats"]

        grad, stats = jax.grad(loss, has_aux=True)(jnp.asarray(x))
        np.testing.assert_allclose(grad, their_x.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(stats["mean"], theirs.running_mean.numpy(), rtol=1e-12)
        np.testing.assert_allclose(stats["var"], theirs.running_var.numpy(), rtol=1e-12)


FILES = [file for family in families() for file in family.published]


@pytest.fixture(scope="module")
def apply_cached():
    compiled = {}

    def run(model, variables, x):
        if model not in compiled:
            compiled[model] = jax.jit(model.apply)
        return np.concatenate([compiled[model](variables, x[i : i + 250]) for i in range(0, len(x), 250)])

    return run


def is_deep(file):
    return not file.stem.startswith(("resnetsmall8", "cifar_resnet20"))


@pytest.mark.parametrize("file", [pytest.param(f, id=f.stem, marks=[pytest.mark.slow] * is_deep(f)) for f in FILES])
def test_published_weights_give_the_reference_outputs_and_accuracy(file, real_data, apply_cached):
    """Reference outputs are torch's, to 1e-4 of the largest; accuracies are those of the data's README, in percent."""
    stated = {
        "cifar_resnet20.cifar10": 91.5,
        "cifar_resnet32.cifar10": 92.8,
        "cifar_resnet56.cifar10": 92.6,
        "resnetsmall8.cifar10": 89.7,
        "resnetsmall8.cifar10-distilled": 91.6,
        "resnetsmall14.cifar10": 92.6,
        "resnetsmall20.cifar10": 94.2,
        "resnetsmall32.cifar10": 93.5,
    }
    model = create_model(file.model, num_classes={"cifar10": 10, "cifar100": 100}[file.dataset])
    variables, manifest = load(real_data / "weights" / file.file, model)
    assert len(manifest.class_names) == model.num_classes
    with np.load(real_data / "images" / "cifar10-lossless-5000.npz") as arrays:
        pixels, labels = arrays["test_images"], arrays["test_labels"]
    reference = np.load(real_data / "reference" / "reference-outputs.npz")[file.stem]
    whole = file.stem in stated
    logits = apply_cached(model, variables, manifest.preprocessing.apply(jnp.asarray(pixels if whole else pixels[:64])))
    assert np.abs(logits[:64] - reference).max() / np.abs(reference).max() < 1e-4
    if whole:
        assert 100 * np.mean(logits.argmax(1) == labels) == pytest.approx(stated[file.stem], abs=0.2)
