"""Activations of frozen layers: computed once, cached in memory and on disk, equal to those computed at every step."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import RecordedEvents, draw_variables

from jaxft.config import Execution, Training
from jaxft.core import devices, paths
from jaxft.core.cache import cache_dir
from jaxft.core.events import Waiting, ignore
from jaxft.core.locks import locked
from jaxft.data.augmentation.augment import Augmentations
from jaxft.data.batches import StepRange, batch_indices
from jaxft.features import class_means
from jaxft.features import packs as packs_module
from jaxft.features import prefix as prefix_module
from jaxft.features.cache import FeatureCache, make_feature_cache
from jaxft.features.feature_spec import FeatureSpec
from jaxft.features.prefix import BATCH_SIZE, Prefix
from jaxft.models import Preprocessing, create_model
from jaxft.study.chunk.lanes import Lane, SharedImages
from jaxft.study.chunk.loop import run_chunk
from jaxft.study.chunk.program import make_program
from jaxft.study.services import Services
from jaxft.training.hparams import make_hparams
from jaxft.training.learning_rates import resolve_layers
from jaxft.training.phases import make_phases

SIZE, NUM = 8, 40
MODEL = create_model("toy", num_classes=3)
PLAIN = Preprocessing(SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (NUM, SIZE, SIZE, 3)), jnp.uint8)
VARIABLES = draw_variables(MODEL, SIZE)
FLAT = {collection: paths.flatten(leaves) for collection, leaves in VARIABLES.items()}


AUGMENTATIONS = Augmentations.of({"flip.enabled": True, "crop.scale_min": 0.5})


def ask(cache, indices, block="stage2/block1", augmentations=AUGMENTATIONS, emit=ignore):
    return cache.outputs(prefix(block, augmentations), np.asarray(indices), emit)


def prefix(block="stage2/block1", augmentations=Augmentations(), variables=FLAT, shorter_prefix=None):  # noqa: B008
    return Prefix(
        MODEL, PLAIN, block, variables, IMAGES, "images", augmentations, jax.random.PRNGKey(3), shorter_prefix
    )


def test_outputs_equal_those_of_the_network():
    rows = np.array([3, 39, 0])
    expected = MODEL.apply(VARIABLES, PLAIN.apply(IMAGES[rows]), stop="stage2/block1")
    np.testing.assert_allclose(ask(FeatureCache(1e9), rows), expected, rtol=1e-4, atol=1e-5)


def test_outputs_are_bit_identical_for_any_selection_of_images():
    every = ask(FeatureCache(1e9), np.arange(3 * NUM))
    some = np.array([NUM + 38, 5, 2 * NUM, 5])
    np.testing.assert_array_equal(ask(FeatureCache(1e9), some), every[some])


def test_class_means_by_hand(monkeypatch):
    monkeypatch.setattr(class_means, "CHUNK_SIZE", 3)  # classes span several chunks
    rows, labels = np.array([3, 39, 0, 7, 8]), np.array([4, 1, 4, 1, 4])  # of classes 0 to 4, some without images
    pooled = class_means.pooled_prefix(MODEL, PLAIN, VARIABLES, IMAGES, "images")
    found = class_means.class_means(pooled, rows, labels, FeatureCache(1e9))
    outputs = np.asarray(MODEL.apply(VARIABLES, PLAIN.apply(IMAGES), stop=MODEL.blocks[-2]))  # pooled
    expected = [outputs[[39, 7]].mean(0), outputs[[3, 0, 8]].mean(0)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_outputs_go_to_a_cpu_without_a_copy():
    outputs = ask(FeatureCache(1e9), [3, 39, 0])
    assert jax.device_put(outputs).unsafe_buffer_pointer() == outputs.ctypes.data


def test_no_batch_is_computed_twice():
    cache, recorded_events = FeatureCache(1e9), RecordedEvents()
    ask(cache, np.arange(NUM), emit=recorded_events)
    assert len(recorded_events) == 2  # 40 images are two batches
    ask(cache, [0, BATCH_SIZE + 1], emit=recorded_events)
    assert len(recorded_events) == 2
    ask(cache, [NUM + 1], emit=recorded_events)  # a view has a separate output
    ask(cache, [1], block="stage1/block1", emit=recorded_events)
    assert len(recorded_events) == 4
    other = {"params": {n: leaf + 1 for n, leaf in FLAT["params"].items()}, "batch_stats": FLAT["batch_stats"]}
    cache.outputs(prefix(variables=other), np.array([1]), recorded_events)
    assert len(recorded_events) == 5


def test_weights_of_later_blocks_do_not_matter():
    cache, recorded_events = FeatureCache(1e9), RecordedEvents()
    later = {n: leaf + float(n.startswith("head")) for n, leaf in FLAT["params"].items()}
    for params in (FLAT["params"], later):
        cache.outputs(prefix(variables=FLAT | {"params": params}), np.array([1]), recorded_events)
    assert len(recorded_events) == 1


@pytest.mark.slow
def test_a_prefix_continues_from_a_shorter_one_and_both_are_cached():
    cache, recorded_events = FeatureCache(1e9), RecordedEvents()
    outputs = cache.outputs(prefix("pool", shorter_prefix=prefix("stage1/block1")), np.array([3, 35]), recorded_events)
    np.testing.assert_allclose(outputs, ask(FeatureCache(1e9), [3, 35], "pool"), rtol=1e-4, atol=1e-5)
    assert len(recorded_events) == 2
    cache.outputs(prefix("stage1/block1"), np.array([3, 35]), recorded_events)
    assert len(recorded_events) == 2


def test_least_recently_used_batches_are_dropped_first():
    block = BATCH_SIZE * 8 * 4 * 4 * 4  # 8 channels on a map of 4 x 4, four bytes each
    cache, recorded_events = FeatureCache(block * 1.5), RecordedEvents()
    assert cache.fits(prefix(), np.arange(BATCH_SIZE)) and not cache.fits(prefix(), np.array([0, BATCH_SIZE]))
    for row in (0, BATCH_SIZE, BATCH_SIZE, 0):
        ask(cache, [row], emit=recorded_events)
    assert len(recorded_events) == 3


def test_the_budget_counts_whole_batches_and_the_shorter_prefix():
    """A batch of 32 images: 8 channels on 4 x 4 after stage2, 4 on 8 x 8 after stage1, four bytes per value."""
    both = prefix(shorter_prefix=prefix("stage1/block1"))
    longer, shorter = (BATCH_SIZE * values * 4 for values in (8 * 4 * 4, 4 * 8 * 8))
    assert FeatureCache(longer + shorter).fits(both, np.array([3]))
    assert not FeatureCache(longer + shorter - 1).fits(both, np.array([3]))


# --- on disk ----------------------------------------------------------------------------------------------------

VIEWS = np.arange(3 * NUM)  # the images and two views of each: six batches
STAGE2 = BATCH_SIZE * 8 * 4 * 4 * 4  # bytes of a batch of outputs of stage2


def on_disk(folder, max_disk_bytes=1e9, max_bytes=1e9):
    return FeatureCache(max_bytes, folder, max_disk_bytes)


def packs(folder):
    return sorted(folder.glob("*.pack"))


@pytest.fixture
def a_block_a_file(monkeypatch):
    """Makes files contain one batch, as for large outputs."""
    monkeypatch.setattr(prefix_module, "PACK_BYTES", 1)


@pytest.fixture
def start():
    """Returns a function that starts a process, which reads VIEWS from a cache on disk and prints the events."""
    code = """
import sys, time
sys.path.insert(0, sys.argv[1])
from features.test_activations import VIEWS, ask, on_disk, Path, prefix_module
from jaxft.tracking.lines import describe
prefix_module.PACK_BYTES = 1
def emit(event):
    print(describe(event), flush=True)
    if describe(event).startswith(sys.argv[3]):
        time.sleep(600)
ask(on_disk(Path(sys.argv[2])), VIEWS, emit=emit)
"""
    started = []

    def start_one(folder, stop_at="never"):
        words = [sys.executable, "-c", code, str(Path(__file__).parents[1]), str(folder), stop_at]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_outputs_from_disk_are_bit_identical(tmp_path):
    computed, first, second = ask(FeatureCache(1e9), VIEWS), RecordedEvents(), RecordedEvents()
    np.testing.assert_array_equal(ask(on_disk(tmp_path), VIEWS, emit=first), computed)
    cache = on_disk(tmp_path)
    for _ in range(2):  # from disk, then from memory
        np.testing.assert_array_equal(ask(cache, VIEWS, emit=second), computed)
    np.testing.assert_array_equal(ask(on_disk(tmp_path, max_bytes=0), VIEWS[::-1], emit=second), computed[::-1])
    assert len(first) == 6 and not second


def test_small_batches_share_a_growing_file(tmp_path):
    recorded_events = RecordedEvents()
    for rows in ([3], [3, BATCH_SIZE], [BATCH_SIZE]):
        ask(on_disk(tmp_path), rows, emit=recorded_events)
    assert len(recorded_events) == 2 and len(packs(tmp_path)) == 1


def test_a_shorter_prefix_is_on_disk_too(tmp_path):
    both, recorded_events = prefix("pool", shorter_prefix=prefix("stage1/block1")), RecordedEvents()
    outputs = on_disk(tmp_path).outputs(both, np.array([3, 35]))
    np.testing.assert_array_equal(on_disk(tmp_path).outputs(both, np.array([3, 35]), recorded_events), outputs)
    ask(on_disk(tmp_path), [3, 35], "stage1/block1", emit=recorded_events)
    assert not recorded_events and len(packs(tmp_path)) == 2


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (prefix_module, "FORMAT", prefix_module.FORMAT + 1),
        (prefix_module, "VERSION", "another"),
        (jax, "__version__", "another"),
        (devices, "_processor", lambda: "another"),
        (prefix_module, "implementation", lambda: ("another", 1)),
    ],
    ids=["format", "jaxft", "jax", "device", "convolution"],
)
def test_versions_and_device_are_part_of_the_digest(monkeypatch, module, name, value):
    before = prefix().digests
    monkeypatch.setattr(module, name, value)
    assert not set(before) & set(prefix().digests)


def test_the_number_of_cores_is_not_part_of_the_digest(monkeypatch):
    before, device = prefix().digests, devices.device_name()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(999))
    assert devices.device_name() != device and prefix().digests == before


def damaged(content, how):
    if how == "flipped":
        return content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
    return {"truncated": content[: len(content) // 2], "empty": b"", "other": b"nothing of the kind"}[how]


@pytest.mark.parametrize("how", ["truncated", "flipped", "empty", "other", "other block"])
def test_batches_of_a_damaged_file_are_computed_again(tmp_path, how):
    recorded_events = RecordedEvents()
    outputs = ask(on_disk(tmp_path), [3, 35])
    (path,) = packs(tmp_path)
    whole = path.read_bytes()
    if how == "other block":
        ask(on_disk(tmp_path), [3, 35], "stage1/block1")
        (other,) = set(packs(tmp_path)) - {path}
        path.write_bytes(other.read_bytes())
    else:
        path.write_bytes(damaged(whole, how))
    np.testing.assert_array_equal(ask(on_disk(tmp_path), [3, 35], emit=recorded_events), outputs)
    assert (
        recorded_events.lines[0]
        == f"warning: the features in {str(path)!r} do not match their checksum; they are computed again"
    )
    assert len(recorded_events) == 1 + 2 and path.read_bytes() == whole


@pytest.mark.usefixtures("a_block_a_file")
def test_the_disk_budget_holds_and_least_recently_used_files_are_dropped(tmp_path):
    cache, recorded_events = on_disk(tmp_path, 3.3 * STAGE2), RecordedEvents()
    for age, number in enumerate(range(3)):
        ask(cache, [number * NUM])
        for path in packs(tmp_path):
            os.utime(path, (age, age))
    assert len(packs(tmp_path)) == 3
    ask(on_disk(tmp_path), [0], emit=recorded_events)  # now most recently used
    ask(cache, [3 * NUM])
    assert sum(path.stat().st_size for path in packs(tmp_path)) <= 3.3 * STAGE2 and len(packs(tmp_path)) == 3
    ask(on_disk(tmp_path), [0, 3 * NUM], emit=recorded_events)
    assert not recorded_events
    ask(on_disk(tmp_path), [NUM], emit=recorded_events)
    assert len(recorded_events) == 1


def test_a_lower_budget_drops_existing_files(tmp_path):
    for block in ("stage1/block1", "stage2/block1"):
        ask(on_disk(tmp_path), [0], block)
    ask(on_disk(tmp_path, 1.5 * STAGE2), [NUM])
    assert len(packs(tmp_path)) == 1


@pytest.mark.usefixtures("a_block_a_file")
def test_the_folder_is_not_listed_for_every_batch(tmp_path, monkeypatch):
    looked = []
    make_room = packs_module.Packs._make_room
    monkeypatch.setattr(packs_module.Packs, "_make_room", lambda *args: (looked.append(args), make_room(*args)))
    ask(on_disk(tmp_path), VIEWS)
    assert len(looked) == 1


@pytest.mark.parametrize("max_disk_bytes", [0, STAGE2 - 1])
def test_files_larger_than_the_disk_budget_are_not_written(tmp_path, max_disk_bytes):
    recorded_events = RecordedEvents()
    ask(on_disk(tmp_path, max_disk_bytes), [0], emit=recorded_events)
    assert len(recorded_events) == 1 and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_gives_one_warning(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    cache, recorded_events = on_disk(tmp_path / "file" / "features"), RecordedEvents()
    np.testing.assert_array_equal(ask(cache, VIEWS, emit=recorded_events), ask(FeatureCache(1e9), VIEWS))
    assert len(recorded_events) == 7 and sum("cannot be cached" in line for line in recorded_events.lines) == 1


def test_a_read_only_folder_is_read(tmp_path):
    outputs, recorded_events = ask(on_disk(tmp_path), [0]), RecordedEvents()
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("root writes everywhere")
        np.testing.assert_array_equal(ask(on_disk(tmp_path), [0], emit=recorded_events), outputs)
        assert not recorded_events
        ask(on_disk(tmp_path), [NUM], emit=recorded_events)
        assert len(recorded_events) == 2 and "cannot be cached" in recorded_events.lines[1]
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.usefixtures("a_block_a_file")
@pytest.mark.slow
def test_two_processes_compute_each_batch_once_and_a_third_reads_them(tmp_path, start):
    """A lock holds both until they wait for the same batch. This process is the third."""
    with locked(tmp_path / f"{prefix(augmentations=AUGMENTATIONS).digests[0]}.lock"):
        both = [start(tmp_path), start(tmp_path)]
        assert all("waiting" in process.stdout.readline() for process in both)
    lines = [line for process in both for line in process.communicate()[0].splitlines()]
    assert sum("images" in line for line in lines) == 6 and len(packs(tmp_path)) == 6
    assert not list(tmp_path.glob("*.lock"))
    recorded_events = RecordedEvents()
    np.testing.assert_array_equal(ask(on_disk(tmp_path), VIEWS, emit=recorded_events), ask(FeatureCache(1e9), VIEWS))
    assert not recorded_events


@pytest.mark.slow
@pytest.mark.usefixtures("a_block_a_file")
def test_a_waiting_process_continues_after_a_killed_one(tmp_path, start):
    owner = start(tmp_path, f"features of stage2/block1: {5 * BATCH_SIZE} of")
    assert sum("images" in owner.stdout.readline() for _ in range(5)) == 5  # four are stored, and the fifth is next
    recorded_events = RecordedEvents()

    def emit(event):
        recorded_events(event)
        if isinstance(event, Waiting):
            owner.kill()

    np.testing.assert_array_equal(ask(on_disk(tmp_path), VIEWS, emit=emit), ask(FeatureCache(1e9), VIEWS))
    assert "waiting" in recorded_events.lines[0] and len(recorded_events) == 3


def test_a_file_of_many_batches_is_written_every_few_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(packs_module, "WRITE_SECONDS", 0)
    views_of_two_blocks, recorded_events = np.arange(NUM, 3 * NUM), RecordedEvents()

    def stop_at_third(event):
        recorded_events(event)
        if len(recorded_events) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(on_disk(tmp_path), views_of_two_blocks, emit=stop_at_third)
    ask(on_disk(tmp_path), views_of_two_blocks, emit=recorded_events)
    assert len(recorded_events) == 3 + 2 and len(packs(tmp_path)) == 1


def test_the_cache_of_a_run_is_in_the_cache_folder():
    ask(make_feature_cache(Execution()), [0])
    assert len(packs(cache_dir() / "features")) == 1
    ask(make_feature_cache(Execution(feature_disk_bytes=0)), [NUM])
    assert len(packs(cache_dir() / "features")) == 1


def test_a_trial_on_features_from_disk_is_bit_identical(tmp_path):
    first, second = (trained(on_disk(tmp_path), **{"layers.backbone_learning_rate": "frozen"}) for _ in range(2))
    assert packs(tmp_path)
    for name, leaf in first.params.items():
        np.testing.assert_array_equal(leaf, second.params[name])


# --- in a trial -------------------------------------------------------------------------------------------------


def trained(features, **fields):
    """Returns the outcome of a short trial of 12 images, with or without cached features."""
    fields = {
        "initialization.start": "random",
        "schedule.epochs": 3.0,
        "batches.size": 5,
        "optimizer.learning_rate": 0.05,
        **fields,
    }
    training = Training.of({**fields})
    layers = resolve_layers(training, MODEL, FLAT["params"])
    phases = make_phases(MODEL, PLAIN, training, layers, tuple(FLAT["batch_stats"]), 12)
    program = make_program(phases, "last", eval_batch_size=16, num_train=12)
    rows, labels = np.arange(NUM, dtype=np.int32), (np.arange(NUM) % 3).astype(np.int32)
    parts = rows[:12], rows[12:20], rows[20:]
    lane = Lane(
        FLAT["params"], FLAT["batch_stats"], make_hparams(training, layers), labels, *parts, 0, jax.random.PRNGKey(1)
    )
    return run_chunk(program, [lane], SharedImages(IMAGES, "images"), services=Services(features))[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"layers.backbone_learning_rate": "frozen"},
        pytest.param({"linear_probe.epochs": 2.0}, marks=pytest.mark.slow),
        pytest.param(
            {
                "layers.rates": (("(stem|stage1)/.*", "frozen"),),
                "augmentation.views": 3,
                "augmentation.flip.enabled": True,
                "augmentation.crop.scale_min": 0.5,
            },
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {
                "linear_probe.epochs": 2.0,
                "augmentation.views": 2,
                "augmentation.flip.enabled": True,
                "layers.rates": (("stem/.*", "frozen"),),
            },
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {
                "layers.backbone_learning_rate": "frozen",
                "augmentation.views": 3,
                "augmentation.randaugment.num_operations": 1,
                "augmentation.color_jitter.hue": 0.1,
                "augmentation.erasing.probability": 0.5,
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=["frozen", "probe", "views", "probe-views", "branches"],
)
def test_cached_features_agree_with_features_computed_at_every_step(fields):
    cache = FeatureCache(1e9)
    kept, computed = trained(cache, **fields), trained(None, **fields)
    assert cache._in_memory  # otherwise both trials compute the features at every step
    for name, leaf in kept.params.items():
        np.testing.assert_allclose(leaf, computed.params[name], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(kept.curves["train_loss"], computed.curves["train_loss"], rtol=1e-3)
    np.testing.assert_array_equal(kept.test_predictions, computed.test_predictions)


@pytest.mark.parametrize(
    "fields",
    [
        {"augmentation.flip.enabled": True, "layers.backbone_learning_rate": "frozen"},
        {"augmentation.mixup.alpha": 1.0, "layers.backbone_learning_rate": "frozen"},
        pytest.param({}, marks=pytest.mark.slow),
    ],
    ids=["random", "mixed", "no prefix"],
)
def test_varying_outputs_are_not_cached(fields):
    cache = FeatureCache(1e9)
    trained(cache, **fields)
    assert not cache._in_memory


def test_each_epoch_uses_the_next_view():
    rows = np.array([2, 5, 7, 9], np.int32)
    indices = batch_indices(rows, 0, StepRange(0, 6, 2, views=2, num_images=10))
    plain = batch_indices(rows, 0, StepRange(0, 6, 2))
    np.testing.assert_array_equal(indices % 10, plain)
    np.testing.assert_array_equal(indices // 10, np.repeat([0, 1, 0], 2)[:, None] * np.ones((1, 2), int))


def test_views_of_one_seed_are_one_group():
    """Trials with different views do not run together, because a group shares its features."""
    phases = make_phases(
        MODEL,
        PLAIN,
        Training.of({"augmentation.flip.enabled": True, "augmentation.views": 2}),
        resolve_layers(Training(), MODEL, FLAT["params"]),
        (),
        12,
    )
    assert phases[0].views == 2 and dataclasses.replace(phases[0], views=0) != phases[0]


# --- pooled features ---


def test_features_are_concatenated_poolings_of_one_forward_pass():
    feature_specs = (
        FeatureSpec("stage1/block1", "max"),
        FeatureSpec("stage2/block1", "bilinear"),
        FeatureSpec("stage2/block1", "average"),
    )
    seen = dataclasses.replace(prefix(), feature_specs=feature_specs)
    rows = np.array([3, 39, 0])
    x = PLAIN.apply(IMAGES[rows])
    maps = {block: MODEL.apply(VARIABLES, x, stop=block) for block in ("stage1/block1", "stage2/block1")}
    cache = FeatureCache(1e9)
    every = cache.outputs(seen, rows)
    assert every.shape == (3, 4 + 8 * 9 // 2 + 8) == (3, *seen.output_shape)
    for spec in feature_specs:
        of_spec = cache.outputs(seen, rows, feature_spec=spec)
        np.testing.assert_allclose(of_spec, spec.features(maps), rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(of_spec, every[:, seen.columns(spec)])
    assert seen.digests != prefix().digests != dataclasses.replace(seen, feature_specs=feature_specs[:1]).digests


def test_features_of_larger_images_use_the_center_crop():
    spec = FeatureSpec("stage1/block1", "average")
    small = Preprocessing(4, PLAIN.mean, PLAIN.std)
    cropped = Augmentations.of({"crop.size_px": 4})
    seen = dataclasses.replace(
        prefix("stage1/block1"), preprocessing=small, augmentations=cropped, feature_specs=(spec,)
    )
    maps = MODEL.apply(VARIABLES, small.apply(IMAGES[:2, 2:6, 2:6]), stop="stage1/block1")
    np.testing.assert_allclose(FeatureCache(1e9).outputs(seen, np.arange(2)), maps.mean((1, 2)), rtol=1e-3, atol=1e-5)
