"""Parity with PyTorch, stage by stage, from committed summaries of its results: needs neither torch nor data.

The networks are those of `test_torch_live.py`, which checks these files against torch. `generate.py` writes the files.
"""

import functools
from pathlib import Path

import numpy as np
import pytest
from drawn import SIZES_PX, TRAINED, draw_images, drawn_network, load_drawn
from passes import make_inference, training_step
from summaries import LARGE, Record, difference, differences, read_family, summarize, summarize_all, write_family

from jaxft.core import paths
from jaxft.weights import digest_of, to_tensors

HERE = Path(__file__).resolve().parent
FAMILIES = {"resnet": ("resnet18", "resnet50"), "squeezenet": ("squeezenet1_0", "squeezenet1_1")}
MOST_BYTES = 200_000  # of a committed file


@functools.cache
def read_reference(name):
    """Returns the record of torch's results for the network called `name`."""
    family = next(family for family, names in FAMILIES.items() if name in names)
    return read_family(HERE / f"{family}.npz")[name]


def each_network(names):
    """Returns the mark that runs a test for `names`; tests of a network follow each other and draw its weights once."""
    params = [pytest.param(name, marks=[pytest.mark.slow] * (name == "resnet50")) for name in names]
    return pytest.mark.parametrize("name", params, scope="module")


def is_inference(key):
    return key.startswith("act/") or key == "logits"


def beyond(bound, far):
    """Returns the differences that are not below `bound`; not-a-number is never below."""
    return {key: value for key, value in far.items() if not value < bound}


def test_every_network_has_a_small_record():
    for family, names in FAMILIES.items():
        path = HERE / f"{family}.npz"
        assert tuple(read_family(path)) == names
        assert path.stat().st_size <= MOST_BYTES
    for name, size_px in SIZES_PX.items():
        facts, summaries = read_reference(name)
        assert facts["size_px"] == size_px
        assert all(map(is_inference, summaries)) == (name not in TRAINED)


@each_network(SIZES_PX)
def test_every_stage_in_inference(name):
    """Float32 against torch's float64: each unit's output from the images on, and the logits, to 1e-4."""
    model, tensors = drawn_network(name)
    facts, theirs = read_reference(name)
    assert digest_of(tensors) == facts["weights_sha256"], "this NumPy draws other weights than the reference has"
    variables = load_drawn(model, tensors)
    assert digest_of(to_tensors(model, variables)) == facts["weights_sha256"], "an export has other bits"
    ours = summarize_all(make_inference(model)(variables, draw_images(facts["size_px"])))
    far = differences(ours, {key: summary for key, summary in theirs.items() if is_inference(key)})
    assert not beyond(1e-4, far)


@pytest.mark.slow
@each_network(TRAINED)
def test_one_training_step(name):
    """Logits, every gradient and every running statistic of a step, in float64 on both sides, to 1e-8."""
    model, tensors = drawn_network(name)
    facts, theirs = read_reference(name)
    variables = load_drawn(model, tensors)
    ours = summarize_all(training_step(model, variables, draw_images(facts["size_px"])))
    far = differences(ours, {key: summary for key, summary in theirs.items() if not is_inference(key)})
    assert len(far) == 1 + len(paths.flatten(variables))  # the logits, and one for each leaf
    assert not beyond(1e-8, far)


@pytest.fixture(scope="module")
def outputs_differ():
    """Returns a function that tells whether inference with other tensors differs from torch's by more than 1e-4."""
    compiled = functools.cache(make_inference)

    def differ(model, tensors):
        facts, theirs = read_reference(model.architecture)
        results = compiled(model)(load_drawn(model, tensors), draw_images(facts["size_px"]))
        return bool(beyond(1e-4, {key: difference(summarize(key, x), theirs[key]) for key, x in results.items()}))

    return differ


def swapped(tensors, first, second):
    return tensors | {first: tensors[second], second: tensors[first]}


def transposed(tensors, name, axes):
    return tensors | {name: np.ascontiguousarray(tensors[name].transpose(axes))}


@pytest.mark.parametrize(
    ("network", "change", "args"),
    [
        ("squeezenet1_0", swapped, ("features.3.expand1x1.weight", "features.4.expand1x1.weight")),
        ("squeezenet1_0", swapped, ("features.3.expand1x1.bias", "features.3.expand3x3.bias")),
        ("squeezenet1_0", transposed, ("features.12.expand3x3.weight", (0, 1, 3, 2))),
        ("resnet18", swapped, ("layer1.0.conv1.weight", "layer1.0.conv2.weight")),
        ("resnet18", swapped, ("layer4.1.bn1.running_mean", "layer4.1.bn1.bias")),
        ("resnet18", swapped, ("layer4.1.bn1.running_var", "layer4.1.bn2.running_var")),
        ("resnet18", transposed, ("layer4.1.conv2.weight", (1, 0, 2, 3))),
        ("resnet18", transposed, ("conv1.weight", (0, 1, 3, 2))),
    ],
)
def test_a_wrong_port_is_seen(network, change, args, outputs_differ):
    model, tensors = drawn_network(network)
    assert not outputs_differ(model, tensors)
    assert outputs_differ(model, change(tensors, *args))


@pytest.mark.parametrize(
    "network", ["squeezenet1_0", pytest.param("resnet18", marks=[pytest.mark.slow, pytest.mark.nightly])]
)
def test_every_weight_tensor_matters(network, outputs_differ):
    """Moving the rows of any one tensor by one is seen in the outputs."""
    model, tensors = drawn_network(network)
    unseen = [key for key, w in tensors.items() if not outputs_differ(model, tensors | {key: np.roll(w, 1, axis=0)})]
    assert not unseen


@pytest.mark.parametrize("key", ["grad/a.weight", "gradsum/a.weight"])
def test_summaries_see_small_changes(key):
    tensor = np.random.default_rng(0).normal(size=(12, 12))
    summary = summarize(key, tensor)
    assert difference(summary, summary) == 0
    one_value = tensor.copy()
    one_value[3, 4] += 1e-3
    for other in (tensor.T, tensor[::-1], tensor[:, [1, 0, *range(2, 12)]], -tensor, tensor * (1 + 1e-6), one_value):
        assert difference(summarize(key, other), summary) > 1e-7
    assert difference(summarize(key, tensor.reshape(6, 24)), summary) == np.inf
    zeros = np.zeros_like(tensor)
    assert difference(summary, summarize(key, zeros)) == np.inf
    assert np.isnan(difference(summarize(key, zeros), summarize(key, zeros)))  # nothing is compared, so no bound holds


def test_summaries_are_read_as_they_were_written(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {"act/a": rng.normal(size=(3, 50)), "logits": rng.normal(size=5), "stat/b": np.float64(2.5)}
    summaries = summarize_all(tensors | {"grad/c": rng.normal(size=LARGE + 1)})
    assert "gradsum/c" in summaries
    record = Record({"size_px": 8}, summaries)
    write_family(tmp_path / "family.npz", {"one": record, "two": record})
    write_family(tmp_path / "again.npz", {"two": record, "one": record})
    assert (tmp_path / "family.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()
    for read in read_family(tmp_path / "family.npz").values():
        assert read.facts == record.facts
        assert max(differences(read.summaries, summaries).values()) < 1e-9
        for key, summary in summaries.items():
            assert read.summaries[key].shape == summary.shape and read.summaries[key].norm == summary.norm
