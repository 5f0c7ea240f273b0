"""The model contract, and parity with the published networks."""

import io
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxft
from jaxft import paths
from jaxft.models import create_model, families, unit_of
from jaxft.nn import BatchNorm
from jaxft.weights import expected_shapes, find_port, load

# One network or more a family, with the smallest images that leave something at its last unit.
NETWORKS = {
    "cifar_resnet14": 32,
    "resnetsmall14": 32,
    "wrn16_1": 32,
    "wrn10_2": 32,
    "resnet18": 64,
    "squeezenet1_0_caffe": 64,
    "squeezenet1_1": 64,
    "squeezenet1_1_keras": 64,
    "efficientnet_lite0": 64,
}


def draw_variables(model, size):
    """Returns variables that keep signals at their size, statistics away from 0 and 1."""
    rng = np.random.default_rng(1)

    def draw(name, shape):
        if name.endswith("/kernel"):
            return rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        return rng.uniform(0.5, 1.5, shape) if name.endswith(("/scale", "/var")) else rng.normal(0, 0.1, shape)

    leaves = {name: jnp.asarray(draw(name, shape), jnp.float32) for name, shape in expected_shapes(model, size).items()}
    return paths.unflatten(leaves)


DEEP = (
    "wrn16_1",
    "resnet18",
    "resnet50",
    "efficientnet_lite0",
    "squeezenet1_0_caffe",
    "squeezenet1_1",
    "squeezenet1_1_keras",
)


def params(*names, slow):
    """Returns the names as a test's parameters, some of them marked slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


@pytest.fixture(scope="module", params=params(*NETWORKS, slow=DEEP))
def network(request):
    """Returns a network, variables for it, and two images."""
    model, size = create_model(request.param, num_classes=5), NETWORKS[request.param]
    images = jnp.asarray(np.random.default_rng(5).normal(size=(2, size, size, 3)), jnp.float32)
    return model, draw_variables(model, size), images


def test_every_listed_model_is_made_by_its_name():
    for name in jaxft.list_models():
        assert create_model(name, num_classes=7).architecture == name


@pytest.mark.parametrize(
    ("name", "num_units"),
    [
        # stem, pool and head, and a unit a block of two (bottlenecks: three) convolutions
        ("cifar_resnet20", 9 + 3),
        ("cifar_resnet110", 54 + 3),
        ("resnetsmall14", 6 + 3),
        ("wrn28_10", 12 + 4),  # and the last norm
        ("resnet34", 16 + 3),
        ("resnet152", 50 + 3),
        ("squeezenet1_0", 8 + 2),  # which pools what its head convolves
        ("efficientnet_lite0", 16 + 4),  # and the wide convolution before the pool
    ],
)
def test_numbers_of_units(name, num_units):
    assert len(create_model(name, 10).units) == num_units


@pytest.mark.parametrize(
    ("name", "num_classes", "values"),
    [
        # He et al. 2016, table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million for 20, 32, 44, 56 and 110 layers.
        ("cifar_resnet20", 10, 269_722),
        ("cifar_resnet32", 10, 464_154),
        ("cifar_resnet56", 10, 853_018),
        # Zagoruyko & Komodakis 2016, table 4: 8.9, 11.0 and 36.5 million.
        ("wrn40_4", 10, 8_949_210),
        ("wrn16_8", 10, 10_961_370),
        ("wrn28_10", 10, 36_479_194),
        # torchvision's documentation
        ("resnet18", 1000, 11_689_512),
        ("resnet34", 1000, 21_797_672),
        ("resnet50", 1000, 25_557_032),
        ("resnet101", 1000, 44_549_160),
        ("resnet152", 1000, 60_192_808),
        ("squeezenet1_0", 1000, 1_248_424),
        ("squeezenet1_1", 1000, 1_235_496),
    ],
)
def test_numbers_of_parameters_and_a_foreign_name_for_each(name, num_classes, values):
    model = create_model(name, num_classes)
    shapes = expected_shapes(model, model.preprocessing.size_px)
    assert sum(np.prod(shape) for leaf, shape in shapes.items() if leaf.startswith("params/")) == values
    assert len({find_port(leaf, model)[1] for leaf in shapes}) == len(shapes)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cifar_resnet9", "6n \\+ 2"),
        ("resnetsmall2", "6n \\+ 2"),
        ("cifar_resnet0", "6n \\+ 2"),
        ("wrn12_1", "6n \\+ 4"),
        ("wrn4_1", "6n \\+ 4"),
        ("wrn16_0", "the width is 0"),
        ("resnet20", "one of 18, 34, 50, 101, 152"),
        ("squeezenet1_2", "did you mean 'squeezenet1_"),
        ("cifar_resnet_20", "did you mean 'cifar_resnet20'"),
    ],
)
def test_a_model_that_there_is_not(name, said):
    with pytest.raises(jaxft.UserError, match=said):
        create_model(name, 10)


def test_images_that_are_too_small_for_a_network():
    with pytest.raises(jaxft.UserError, match=r"squeezenet1_0 cannot take images of 16 px: nothing of them reaches"):
        expected_shapes(create_model("squeezenet1_0", 10), 16)


def test_a_network_can_be_left_and_entered_at_every_unit(network):
    model, variables, images = network
    whole = model.apply(variables, images)
    assert whole.shape == (2, 5)
    for before, after in zip(model.units, model.units[1:]):
        middle = model.apply(variables, images, stop=before)
        np.testing.assert_array_equal(model.apply(variables, middle, start=after), whole)


def test_one_unit_alone(network):
    model, variables, images = network
    before, unit = model.units[2:4]
    entered = model.apply(variables, images, stop=before)
    alone = model.apply(variables, entered, start=unit, stop=unit)
    np.testing.assert_array_equal(alone, model.apply(variables, images, stop=unit))


def test_every_leaf_belongs_to_a_unit(network):
    model, variables, _ = network
    found = {unit_of(name, model.units) for name in paths.flatten(variables["params"])}
    assert found == set(model.units) - {"pool"}


@pytest.mark.slow
@pytest.mark.parametrize("name", params(*NETWORKS, "resnet50", slow=DEEP))
def test_taps_say_stride_and_receptive_field(name):
    """Where nothing is negative or cancels, the columns that a tap's middle value sees are those that change it."""
    model = create_model(name, num_classes=2)
    height = 32 if "squeezenet" in name else 1  # SqueezeNet's first layers have no padding
    taps = model.taps
    starts = [None, *(model.units[model.units.index(tap.unit) + 1] for tap in taps)]

    def look(x):
        for start, tap in zip(starts, taps):
            x = model.apply(variables, x, start=start, stop=tap.unit)
            yield x

    shapes = expected_shapes(model, 64)
    values = {name: np.float32(name.endswith(("/scale", "/var"))) for name in shapes}
    values |= {name: 1 / np.prod(shape[:-1]) for name, shape in shapes.items() if name.endswith("/kernel")}
    variables = paths.unflatten({name: jnp.full(shape, values[name], jnp.float32) for name, shape in shapes.items()})
    width = -(-max(tap.receptive_field_px for tap in taps) // 64) * 64 + 128
    x = np.zeros((width, height, width, 3), np.float32)
    x[np.arange(width), :, np.arange(width)] = 1.0  # another column in each image
    wider = jax.eval_shape(lambda x: list(look(x)), jax.ShapeDtypeStruct((1, height, width + 64, 3), jnp.float32))
    for tap, out, wide in zip(taps, jax.jit(lambda x: list(look(x)))(x), wider):
        assert (wide.shape[2] - out.shape[2]) * tap.stride_px == 64, tap
        (columns,) = np.nonzero(np.any(out[:, out.shape[1] // 2, out.shape[2] // 2], axis=1))
        assert len(columns) == np.ptp(columns) + 1 == tap.receptive_field_px, tap


def test_train_changes_statistics_only(network):
    model, variables, images = network
    _, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
    before, after = (paths.flatten(tree.get("batch_stats", {})) for tree in (variables, updated))
    assert set(updated) <= {"batch_stats"} and before.keys() == after.keys()
    assert bool(before) != ("squeezenet" in model.architecture)  # which has no batch norm
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


FILES = [file for family in families() for file in family.published if file.file.endswith(".safetensors")]
# The data's README, in percent: top-1, or top-1 and top-5.
STATED = {
    "cifar_resnet20.cifar10": (91.5,),
    "cifar_resnet32.cifar10": (92.8,),
    "cifar_resnet56.cifar10": (92.6,),
    "resnetsmall8.cifar10": (89.7,),
    "resnetsmall8.cifar10-distilled": (91.6,),
    "resnetsmall14.cifar10": (92.6,),
    "resnetsmall20.cifar10": (94.2,),
    "resnetsmall32.cifar10": (93.5,),
    "wrn10_1.cifar10": (88.9,),
    "wrn16_1.cifar10": (92.1,),
    "squeezenet1_0.imagenet-deepcompressed": (61.3, 83.2),
    "efficientnet_lite0.imagenet": (86.8, 96.9),
}


@pytest.fixture(scope="module")
def apply_cached():
    """Returns a function that gives the network's outputs for uint8 pixels, a batch at a time."""
    compiled = {}

    def run(model, variables, preprocessing, pixels, batch_size):
        if model not in compiled:
            compiled[model] = jax.jit(model.apply, static_argnames="stop")
        # A file without classifier has the averages of its last map for reference.
        stop = model.units[-2] if model.architecture == "squeezenet1_1_keras" else None
        batches = [pixels[i : i + batch_size] for i in range(0, len(pixels), batch_size)]
        outputs = [compiled[model](variables, preprocessing.apply(jnp.asarray(x)), stop=stop) for x in batches]
        return np.concatenate([out.mean((1, 2)) if stop else out for out in outputs])

    return run


@pytest.fixture(scope="module")
def read_images():
    """Returns a function that gives a data set's test pixels, in the middle of which are `size_px`, and labels."""
    decoded = {}

    def read(folder, dataset, size_px):
        if dataset != "imagenet":
            with np.load(folder / "cifar10-lossless-5000.npz") as arrays:
                return arrays["test_images"], arrays["test_labels"]
        if dataset not in decoded:
            with zipfile.ZipFile(folder / "imagenet-sample-1000.zip") as archive:
                names = sorted(archive.namelist())
                decoded[dataset] = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names])
        offset = (256 - size_px) // 2  # 14 for 227, 16 for 224
        return decoded[dataset][:, offset : offset + size_px, offset : offset + size_px], np.arange(1000)

    return read


def is_deep(file):
    return not file.stem.startswith(("resnetsmall8", "wrn10"))


def marks(file):
    nightly = file.model.startswith("squeezenet1_0")  # a thousand images of 224 px, two minutes
    return [pytest.mark.slow] * is_deep(file) + [pytest.mark.nightly] * nightly


@pytest.mark.parametrize("file", [pytest.param(f, id=f.stem, marks=marks(f)) for f in FILES])
def test_published_weights_give_the_reference_outputs_and_accuracy(file, real_data, apply_cached, read_images):
    """Outputs are torch's, to 1e-4 of the largest; accuracies the stated ones, to 0.2 points (ImageNet: 0.5)."""
    model = create_model(file.model, num_classes={"cifar10": 10, "cifar100": 100, "imagenet": 1000}[file.dataset])
    headless = file.model == "squeezenet1_1_keras"
    variables, manifest = load(real_data / "weights" / file.file, model, head="new" if headless else "load")
    assert len(manifest.class_names) == model.num_classes
    pixels, labels = read_images(real_data / "images", file.dataset, manifest.preprocessing.size_px)
    reference = np.load(real_data / "reference" / "reference-outputs.npz")[file.stem]
    stated = STATED.get(file.stem, ())
    batch_size = 40 if file.dataset == "imagenet" else 250
    pixels = pixels if stated else pixels[: len(reference)]
    outputs = apply_cached(model, variables, manifest.preprocessing, pixels, batch_size)
    first = outputs[: len(reference)]
    assert np.abs(first - reference).max() / np.abs(reference).max() < 1e-4
    for top, percent in zip((1, 5), stated):
        hits = (np.argsort(outputs, axis=1)[:, -top:] == labels.reshape(-1, 1)).any(1)
        assert 100 * hits.mean() == pytest.approx(percent, abs=0.5 if file.dataset == "imagenet" else 0.2)
