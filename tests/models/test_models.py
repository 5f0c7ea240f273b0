"""The interface of networks, and parity with the published networks."""

import functools
import io
import itertools
import zipfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draw_variables
from PIL import Image

import jaxft
from jaxft.core import paths
from jaxft.models import block_of, create_model, list_families
from jaxft.models.families.efficientnet import EfficientNetLite, Shape
from jaxft.models.layers import BatchNorm
from jaxft.models.structure import expected_shapes
from jaxft.weights import find_port, load

# At least one network per family, as shallow as possible, with the smallest images for which the input of the head is
# not empty. EfficientNet-Lite has one block of each kind: without expansion, with a stride, with a shortcut.
NETWORKS = {
    "cifar_resnet14": (create_model("cifar_resnet14", 5), 8),
    "resnetsmall14": (create_model("resnetsmall14", 5), 16),
    "wrn10_2": (create_model("wrn10_2", 5), 8),
    "resnet18": (create_model("resnet18", 5), 32),
    "squeezenet1_0_caffe": (create_model("squeezenet1_0_caffe", 5), 48),
    "squeezenet1_1": (create_model("squeezenet1_1", 5), 48),
    "squeezenet1_1_keras": (create_model("squeezenet1_1_keras", 5), 48),
    "efficientnet_lite": (
        EfficientNetLite(num_classes=5, shapes=(Shape(1, 3, 1, 1, 16), Shape(2, 5, 2, 6, 24))),
        16,
    ),
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[pytest.mark.slow] * (n == "squeezenet1_0_caffe")) for n in NETWORKS],
)
def network(request):
    """Returns a network, its variables, and two images."""
    model, size = NETWORKS[request.param]
    images = jnp.asarray(np.random.default_rng(5).normal(size=(2, size, size, 3)), jnp.float32)
    return model, draw_variables(model, size), images


def test_each_listed_model_can_be_created():
    for name in jaxft.list_models():
        assert create_model(name, num_classes=7).architecture == name


@pytest.mark.parametrize(
    ("name", "num_blocks"),
    [
        # stem, pool and head, and residual blocks of two (bottlenecks: three) convolutions
        ("cifar_resnet20", 9 + 3),
        ("cifar_resnet110", 54 + 3),
        ("resnetsmall14", 6 + 3),
        ("wrn28_10", 12 + 4),  # and the last norm
        ("resnet34", 16 + 3),
        ("resnet152", 50 + 3),
        ("squeezenet1_0", 8 + 2),  # the pool is part of the head
        ("efficientnet_lite0", 16 + 4),  # and the wide convolution before the pool
    ],
)
def test_number_of_blocks(name, num_blocks):
    assert len(create_model(name, 10).blocks) == num_blocks


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
def test_number_of_parameters_and_a_tensor_name_for_each(name, num_classes, values):
    model = create_model(name, num_classes)
    shapes = expected_shapes(model, model.preprocessing.size_px)
    assert sum(np.prod(shape) for leaf, shape in shapes.items() if leaf.startswith("params/")) == values
    assert len({find_port(leaf, model)[1] for leaf in shapes}) == len(shapes)


@pytest.mark.parametrize(
    ("name", "message"),
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
def test_an_unknown_model_is_refused(name, message):
    with pytest.raises(jaxft.UserError, match=message):
        create_model(name, 10)


def test_images_that_are_too_small_for_a_network_are_refused():
    with pytest.raises(jaxft.UserError, match=r"squeezenet1_0 cannot process images of 16 px: the input of the head"):
        expected_shapes(create_model("squeezenet1_0", 10), 16)


@pytest.mark.slow
def test_blocks_one_after_another_equal_the_network(network):
    model, variables, images = network
    x = images
    for below, block in itertools.pairwise((None, *model.blocks)):
        x = model.apply(variables, x, after=below, stop=block)
    assert x.shape == (2, 5) and (x != 0).any()
    np.testing.assert_array_equal(x, model.apply(variables, images))


@pytest.mark.parametrize("name", [*NETWORKS, "resnet50", "wrn16_1", "efficientnet_lite0"])
def test_a_network_can_stop_at_each_block_and_continue_after_it(name):
    """Records the names of the blocks instead of running them; the test above compares the outputs."""
    model = NETWORKS[name][0] if name in NETWORKS else create_model(name, 5)
    blocks, run = model.blocks, []

    def record(call, args, kwargs, context):
        block = "/".join(context.module.path)
        if block not in blocks:
            return call(*args, **kwargs)
        run.append(block)
        return args[0]

    with nn.intercept_methods(record):
        for before, after in itertools.pairwise(blocks):
            model.apply({}, jnp.zeros(()), stop=before)
            assert run == list(blocks[: len(run)]) and run[-1] == before
            model.apply({}, jnp.zeros(()), after=before)
            assert run == list(blocks)
            run.clear()
            model.apply({}, jnp.zeros(()), after=before, stop=after)
            assert run == [after]
            run.clear()
            model.apply({}, jnp.zeros(()), after=after, stop=after)
            assert run == []
            with pytest.raises(ValueError, match=f"stop='{before}' comes before after='{after}'"):
                model.apply({}, jnp.zeros(()), after=after, stop=before)
        model.apply({}, jnp.zeros(()), after=model.head)
        assert run == []


def test_stopping_at_a_block_and_continuing_after_it_equals_the_network(network):
    model, variables, images = network
    whole = model.apply(variables, images)
    for block in (model.blocks[0], model.blocks[2], model.feature_block, model.head):
        output = model.apply(variables, images, stop=block)
        np.testing.assert_array_equal(model.apply(variables, output, after=block), whole)
        for precision in ("float32", "bfloat16"):
            assert model.with_precision(precision).apply(variables, output, after=block, stop=block) is output


def test_a_stage_stands_for_its_last_block():
    model = create_model("cifar_resnet14", 5)
    assert model.blocks_after("stage2", "pool") == ("stage3/block1", "stage3/block2", "pool")
    assert model.blocks_after(None, "stage1") == ("stem", "stage1/block1", "stage1/block2")
    assert model.blocks_after("stage2/block2", "stage2") == ()


def test_an_unknown_block_is_named(network):
    model, variables, images = network
    for arguments in ({"stop": "stage9"}, {"after": "stage9"}):
        with pytest.raises(ValueError, match="there is no block 'stage9'; the blocks are "):
            model.apply(variables, images, **arguments)


def test_each_leaf_belongs_to_a_block(network):
    model, variables, _ = network
    blocks = {block_of(name, model.blocks) for name in paths.flatten(variables["params"])}
    assert blocks == set(model.blocks) - {"pool"}


TAPPED = {
    "cifar_resnet14": 32,
    "resnetsmall14": 32,
    "wrn16_1": 32,
    "resnet18": 64,
    "resnet50": 64,
    "squeezenet1_0": 64,
    "squeezenet1_1": 64,
    "squeezenet1_1_keras": 64,
    "efficientnet_lite0": 64,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ("resnet50", "efficientnet_lite0"))) for n in TAPPED]
)
def test_strides_and_receptive_fields_of_taps(name):
    """Measures the receptive field from tap to tap by the columns that change a value.

    All values are positive, so no effects cancel. A value of a tap depends on neighboring values of the previous tap,
    which are one stride apart in the image and have one receptive field each.
    """
    model = create_model(name, num_classes=2)
    shapes = expected_shapes(model, TAPPED[name])
    values = {leaf: np.float32(leaf.endswith(("/scale", "/var"))) for leaf in shapes}
    values |= {leaf: 1 / np.prod(shape[:-1]) for leaf, shape in shapes.items() if leaf.endswith("/kernel")}
    variables = paths.unflatten({leaf: np.full(shape, values[leaf], np.float32) for leaf, shape in shapes.items()})
    after, channels, stride_px, receptive_field_px = None, 3, 1, 1
    for tap in model.taps:
        run = jax.jit(functools.partial(model.apply, after=after, stop=tap.block))
        stride = tap.stride_px // stride_px
        width = 16 * stride + 16
        height = 9 if "squeezenet" in name else 1  # SqueezeNet's first layers have no padding
        x = np.zeros((width, height, width, channels), np.float32)
        x[np.arange(width), :, np.arange(width)] = 1.0  # a different column in each image
        out = np.asarray(run(variables, x))
        wider = jax.eval_shape(run, variables, jax.ShapeDtypeStruct((1, height, width + 8 * stride, channels), x.dtype))
        assert tap.stride_px == stride * stride_px and wider.shape[2] == out.shape[2] + 8, tap
        depends = (out[:, out.shape[1] // 2] > 0).any(-1)  # [columns, columns of the tap]
        middle = out.shape[2] // 2
        (columns,) = np.nonzero(depends[:, middle])
        assert columns[0] > 0 and columns[-1] < width - 1, "the border cuts off the receptive field"
        assert len(columns) == np.ptp(columns) + 1, tap
        np.testing.assert_array_equal(np.nonzero(depends[:, middle - 1])[0], columns - stride)
        assert receptive_field_px + (len(columns) - 1) * stride_px == tap.receptive_field_px, tap
        after, channels = tap.block, out.shape[-1]
        stride_px, receptive_field_px = tap.stride_px, tap.receptive_field_px


def test_train_changes_only_statistics(network):
    model, variables, images = network
    _, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
    before, after = (paths.flatten(tree.get("batch_stats", {})) for tree in (variables, updated))
    assert set(updated) <= {"batch_stats"} and before.keys() == after.keys()
    assert bool(before) != ("squeezenet" in model.architecture)  # SqueezeNet has no batch norm
    assert all((before[name] != after[name]).any() for name in before)


def test_batch_norm_by_hand():
    # Values 1, 3 (mean 2, biased variance 1, unbiased 2): normalized -1, 1; statistics change by a tenth.
    norm = BatchNorm(epsilon=0.0)
    x = jnp.array([[1.0], [3.0]])
    variables = norm.init(jax.random.key(0), x)
    y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, [[-1.0], [1.0]], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [0.2], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], [0.9 + 0.1 * 2], rtol=1e-6)


FILES = [file for family in list_families() for file in family.published if file.file.endswith(".safetensors")]
# From the README of the data, in percent: top-1, or top-1 and top-5.
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


def is_deep(file):
    return not file.stem.startswith(("resnetsmall8", "wrn10"))


@pytest.fixture(scope="module")
def opened(real_data):
    """Returns a function that loads a published file once and returns (model, variables, manifest)."""

    @functools.cache
    def open_file(file):
        model = create_model(file.model, num_classes={"cifar10": 10, "cifar100": 100, "imagenet": 1000}[file.dataset])
        head = "new" if file.model == "squeezenet1_1_keras" else "load"  # this file has no classifier
        return model, *load(real_data / "weights" / file.file, model, head=head)

    return open_file


@pytest.fixture(scope="module")
def apply_cached():
    """Returns a function that computes the outputs of a network for uint8 pixels, batch by batch."""
    compiled = functools.cache(lambda model: jax.jit(model.apply, static_argnames="stop"))

    def run(model, variables, preprocessing, pixels, batch_size):
        # The file has no classifier, so its reference is the averages of the last map.
        stop = model.feature_block if model.architecture == "squeezenet1_1_keras" else None
        outputs = []
        for i in range(0, len(pixels), batch_size):
            batch = pixels[i : i + batch_size]
            padded = np.pad(batch, [(0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)])
            out = compiled(model)(variables, preprocessing.apply(jnp.asarray(padded)), stop=stop)[: len(batch)]
            outputs.append(out.mean((1, 2)) if stop else out)
        return np.concatenate(outputs)

    return run


@pytest.fixture(scope="module")
def read_images(real_data):
    """Returns a function that reads the center crops and labels of the first `n` test images of a data set."""

    @functools.cache
    def decode(n):
        with zipfile.ZipFile(real_data / "images" / "imagenet-sample-1000.zip") as archive:
            names = sorted(archive.namelist())[:n]
            return np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names])

    def read(dataset, size_px, n):
        if dataset != "imagenet":
            with np.load(real_data / "images" / "cifar10-lossless-5000.npz") as arrays:
                return arrays["test_images"][:n], arrays["test_labels"][:n]
        offset = (256 - size_px) // 2  # 14 for 227, 16 for 224
        return decode(n)[:, offset : offset + size_px, offset : offset + size_px], np.arange(n)

    return read


@pytest.fixture(scope="module")
def references(real_data):
    """Returns the outputs of PyTorch for the first images of the data set of each file, by the stem of the file."""
    return np.load(real_data / "reference" / "reference-outputs.npz")


@pytest.mark.parametrize("file", [pytest.param(f, id=f.stem, marks=[pytest.mark.slow] * is_deep(f)) for f in FILES])
def test_published_weights_give_the_reference_outputs(file, opened, apply_cached, read_images, references):
    """Outputs equal those of PyTorch to 1e-4 of the largest."""
    model, variables, manifest = opened(file)
    assert len(manifest.class_names) == model.num_classes
    reference = references[file.stem]
    pixels, _ = read_images(file.dataset, manifest.preprocessing.size_px, len(reference))
    outputs = apply_cached(model, variables, manifest.preprocessing, pixels, len(reference))
    assert np.abs(outputs - reference).max() / np.abs(reference).max() < 1e-4


def marks(file):
    if file.model in ("cifar_resnet20", "resnetsmall8", "wrn10_1", "wrn16_1"):
        return [pytest.mark.slow] * is_deep(file)
    return [pytest.mark.slow, pytest.mark.nightly]  # deep networks, or a thousand images of 224 px: up to two minutes


@pytest.mark.parametrize("file", [pytest.param(f, id=f.stem, marks=marks(f)) for f in FILES if f.stem in STATED])
def test_published_weights_have_the_stated_accuracy(file, opened, apply_cached, read_images, references):
    """On a thousand images, to 0.2 points (ImageNet: 0.5)."""
    model, variables, manifest = opened(file)
    pixels, labels = read_images(file.dataset, manifest.preprocessing.size_px, 1000)
    outputs = apply_cached(model, variables, manifest.preprocessing, pixels, len(references[file.stem]))
    for top, percent in zip((1, 5), STATED[file.stem]):
        hits = (np.argsort(outputs, axis=1)[:, -top:] == labels.reshape(-1, 1)).any(1)
        assert 100 * hits.mean() == pytest.approx(percent, abs=0.5 if file.dataset == "imagenet" else 0.2)


@pytest.mark.parametrize("num_classes", [-1, 0, 2.5, None, True, "3"])
def test_a_number_of_classes_that_is_not_a_positive_integer_is_refused(num_classes):
    with pytest.raises(jaxft.UserError, match="give a whole number, 1 or more"):
        create_model("toy", num_classes)


def test_the_number_of_classes_may_be_of_numpy():
    assert create_model("toy", np.int64(3)).num_classes == 3
