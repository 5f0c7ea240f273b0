"""Classifiers of features: trials like others, one forward pass for all, validation selects the level."""

import json
import re
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import jaxft
from jaxft.config import Study, Training, from_dict
from jaxft.config.training import ClassifierConfig
from jaxft.features.classifiers import CLASSIFIERS, FittedClassifier
from jaxft.features.feature_classifier import (
    FeatureClassifier,
    FeatureSplit,
    fit_feature_classifier,
    plan_feature_classifier,
)
from jaxft.features.feature_spec import FeatureSpec
from jaxft.features.prefix import Prefix
from jaxft.models import Preprocessing, create_model
from jaxft.models.initialization import init_variables
from jaxft.store.records import Store
from jaxft.study.plan import make_plan

STUDY = {
    "seeds": 2,
    "source": {"model": "toy"},
    "target": {
        "size_px": 8,
        "classes": ["0", "1", "2"],
        "train_per_class": 8,
        "val_per_class": 4,
        "test_per_class": 10,
    },
    "training": {"initialization.start": "random"},
    "streams": {"init": 0},
    "factors": [
        {"training.classifier.kind": ["logistic", "svm", "knn", "class_mean"], "training.classifier.tap": ["stage2"]},
        {
            "training.classifier.kind": ["knn"],
            "training.classifier.tap": ["stage1"],
            "training.classifier.pooling": ["bilinear", "cross_layer"],
        },
    ],
}


def study(**augmentations):
    return from_dict(Study, STUDY | augmentations)


def training(**fields):
    """Returns a study of one trial of a classifier."""
    return study(
        training={"initialization.start": "random", "classifier.kind": "logistic", **fields}, factors=[], seeds=[0]
    )


pytestmark = pytest.mark.usefixtures("no_report")  # only the study of the fixture needs one


@pytest.fixture(scope="module")
def ran(made_once):
    """Returns the work directory and the results of the study, run once, and the number of runs of each batch."""

    def run(folder):
        counts, outputs_of_batch = {}, Prefix.outputs_of_batch

        def counted(self, number):
            counts[number] = counts.get(number, 0) + 1
            return outputs_of_batch(self, number)

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JAXFT_CACHE", str(folder / "cache"))
            patch.setattr(Prefix, "outputs_of_batch", counted)
            jaxft.run_study(study(), folder / "study", quiet=True)
        (folder / "counts.json").write_text(json.dumps(counts))

    folder = made_once("readout", run)
    counts = json.loads((folder / "counts.json").read_text())
    return folder / "study", jaxft.load_results(folder / "study"), counts


@pytest.mark.slow
def test_one_forward_pass_serves_all_classifiers(ran):
    _, results, counts = ran
    assert len(results) == 12 and (results["status"] == "done").all()
    assert set(counts.values()) == {1}
    assert len(make_plan(study()).groups) == 1


@pytest.mark.slow
def test_results_have_no_epochs_and_the_network_does_not_train(ran):
    workdir, results, _ = ran
    assert results["selected_epoch"].isna().all() and (results["relative_change"] == 0).all()
    assert results["test_accuracy"].min() > 1 / 3
    assert not list(workdir.glob("weights/*"))
    assert (workdir / "report.html").is_file()


@pytest.mark.slow
def test_logistic_regression_agrees_with_scikit_learn_on_the_features(ran):
    workdir, _, _ = ran
    planned = next(t for t in make_plan(study()).trials if t.trial.training.classifier.kind == "logistic")
    store, split = Store.open(workdir), planned.split
    record, arrays = store.read("trials", planned.digest), store.arrays("trials", planned.digest)
    variables = init_variables(planned.model, jaxft_key(), planned.size_px)
    seen = planned.feature_classifier.preprocessing.apply(jax.numpy.asarray(planned.images.images))
    features = np.asarray(jax.jit(partial(planned.model.apply, stop="stage2/block1"))(variables, seen)).mean((1, 2))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    strength = record["selected_level"]
    model = LogisticRegression(C=1 / (strength * len(split.train)), tol=1e-8, max_iter=10_000)
    model.fit(features[split.train].astype(np.float64), split.labels[split.train])
    np.testing.assert_array_equal(arrays["test_predictions"], model.predict(features[split.test]))
    assert record["test_accuracy"] == (arrays["test_predictions"] == split.labels[split.test]).mean()
    by_level = arrays["val_accuracy_by_level"]
    assert by_level[arrays["levels"].tolist().index(strength)] == record["val_accuracy"] == by_level.max()


def jaxft_key():
    from jaxft.study.trial_loader import stream_key

    return stream_key("init", 0)


@pytest.mark.slow
def test_a_lost_record_is_written_again(ran, tmp_path):
    workdir, results = shutil.copytree(ran[0], tmp_path / "study"), ran[1]
    digest = results["trial"][3]
    paths = [workdir / "trials" / f"{digest}.{suffix}" for suffix in ("json", "npz")]
    before = json.loads(paths[0].read_text())
    for path in paths:
        path.unlink()
    jaxft.run_study(study(), workdir, quiet=True)
    not_repeated = {"seconds": 0, "sealed": {}}  # the digest of the record includes its seconds
    assert json.loads(paths[0].read_text()) | not_repeated == before | not_repeated


@pytest.mark.slow
def test_classifiers_and_networks_are_arms_of_one_study(tmp_path):
    both = study(
        seeds=1,
        factors=[{"training.classifier.kind": ["class_mean"]}, {"training.layers.backbone_learning_rate": ["frozen"]}],
        training={"initialization.start": "random", "schedule.epochs": 1.0, "batches.size": 12},
    )
    results = jaxft.run_study(both, tmp_path / "study", quiet=True)
    assert results["selected_epoch"].isna().tolist() == [True, False]


# --- identity ---


def digest_of(**fields):
    return make_plan(training(**fields)).trials[0].digest


def test_fields_of_training_are_not_part_of_the_identity_of_a_classifier():
    usual = digest_of()
    assert (
        digest_of(**{"schedule.epochs": 3.0, "augmentation.flip.enabled": True, "optimizer.learning_rate": 0.5})
        == usual
    )
    assert digest_of(**{"classifier.num_neighbors": [3]}) == usual == digest_of(**{"classifier.cross_tap": "stem"})
    assert digest_of(**{"classifier.penalties": [0.1]}) != usual
    assert (
        digest_of(**{"classifier.kind": "knn", "classifier.penalties": [0.1]})
        == digest_of(**{"classifier.kind": "knn"})
        != usual
    )
    assert (
        digest_of(**{"classifier.pooling": "max", "classifier.tap": "stage2"})
        != digest_of(**{"classifier.tap": "stage2"})
        != usual
    )


def test_fields_of_classifiers_are_not_part_of_the_identity_of_a_network():
    (usual,) = make_plan(training(**{"classifier.kind": "network"})).trials
    (other,) = make_plan(
        training(**{"classifier.kind": "network", "classifier.penalties": [0.1], "classifier.metric": "euclidean"})
    ).trials
    assert other.digest == usual.digest
    assert [name for name in usual.identity["fields"] if name.startswith("training.")] == [
        "training.initialization.start"
    ]


def test_the_streams_of_a_classifier_are_the_split_and_a_random_start():
    (trial,) = make_plan(training()).trials
    assert trial.streams_used == ("split", "init")


# --- what it reads ---


FEATURES = np.float32([[0, 1], [0, 2], [1, 0], [2, 0], [0, 3], [3, 0], [1, 2]])
LABELS = np.array([0, 0, 1, 1, 0, 1, 0])
PARTS = np.arange(4), np.array([4]), np.array([5, 6])
PLAIN = Preprocessing(8, (0.0,) * 3, (1.0,) * 3)


def read(classifier, levels=(), labels=LABELS, parts=PARTS, weights=1.0):
    config = ClassifierConfig(kind=classifier, scaling="none")
    feature_classifier = FeatureClassifier(config, FeatureSpec("pool", "average"), PLAIN, None, levels)
    return fit_feature_classifier(
        feature_classifier, FeatureSplit(FEATURES, labels, *parts), num_classes=2, class_weights=np.asarray(weights)
    )


@pytest.mark.slow
@pytest.mark.parametrize("classifier", ["logistic", "svm", "knn", "class_mean"])
def test_each_classifier_separates_two_directions(classifier):
    levels = {"knn": (1, 3), "class_mean": ()}.get(classifier, (0.01, 0.1))
    found = read(classifier, levels)
    assert found.test_predictions.tolist() == [1, 0]
    assert set(found.metrics.values()) == {1.0}
    assert found.level == (levels[0] if levels else None)  # of ties, the first


def test_validation_selects_the_level_and_the_test_images_are_predicted_with_it():
    # The nearest neighbor of the validation image has its class; most of the five nearest do not.
    labels = np.array([0, 1, 1, 0, 0, 1, 1])
    parts = np.array([0, 1, 2, 3, 6]), np.array([4]), np.array([5])
    found = read("knn", (1, 5), labels, parts)
    assert found.by_level["val_accuracy_by_level"].tolist() == [1.0, 0.0] and found.level == 1
    assert found.test_predictions.tolist() == [1]


def test_without_images_there_is_no_accuracy():
    found = read("logistic", (0.1,), parts=(np.arange(4), np.zeros(0, int), np.zeros(0, int)))
    assert set(found.metrics.values()) == {None}
    assert found.level == 0.1 and not len(found.test_predictions)


def test_class_weights_act_on_the_loss():
    even, uneven = (read("logistic", (1.0,), weights=weights) for weights in (1.0, np.array([1e4, 1.0])))
    assert even.test_predictions.tolist() == [1, 0] and uneven.test_predictions.tolist() == [0, 0]


class Threshold:
    """Predicts class 1 if the first feature is larger than a level; the levels are the penalties."""

    level_field = "penalties"

    def levels(self, config, num_train):
        return config.penalties

    def fit(self, train, levels, config):
        def predict(features, which):
            return (features[None, :, 0] > np.array(levels[which])[:, None]).astype(np.int32)

        return FittedClassifier(predict, lambda features, labels: np.zeros(len(levels)), {"levels": np.array(levels)})


def test_a_classifier_of_a_plug_in_is_selected_and_tested_like_others(request):
    CLASSIFIERS.register("threshold", Threshold())
    request.addfinalizer(lambda: CLASSIFIERS.entries.pop("threshold"))
    parts = np.arange(4), np.array([4, 6, 2]), np.array([5, 3])  # first features 0, 1, 1 of classes 0, 0, 1; 3, 2
    labels = np.array([0, 0, 1, 1, 0, 1, 0])
    found = read("threshold", (0.5, 1.5, 2.5), labels, parts)
    assert found.by_level["val_accuracy_by_level"].tolist() == [2 / 3, 2 / 3, 2 / 3] and found.level == 0.5
    assert found.test_predictions.tolist() == [1, 1] and found.metrics["test_accuracy"] == 1.0
    above = read("threshold", (2.5, 0.5), labels, (parts[0], np.array([5, 3]), parts[2]))  # which are 3 and 2
    assert above.by_level["val_accuracy_by_level"].tolist() == [0.5, 1.0] and above.level == 0.5
    config = ClassifierConfig(kind="threshold", penalties=(0.1, 0.2))
    model = create_model("cifar_resnet8", 3)
    feature_classifier = plan_feature_classifier(model, Training(classifier=config), PLAIN, (6, 5, 9), 1e9)
    assert feature_classifier.levels == (0.1, 0.2) and feature_classifier.level_name == "penalties"


# --- what may be wrong ---


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"classifier.tap": "stage9"},
            "training.classifier.tap' is 'stage9' (did you mean 'stage2'?), which is not a stage or block of toy",
        ),
        ({"classifier.tap": "head"}, "which is not a stage or block of toy below the head"),
        (
            {"classifier.pooling": "bilinear"},
            "'bilinear', which needs a feature map, but the output of 'pool' is a vector; set "
            "'training.classifier.tap', for example to 'stage2'.",
        ),
        ({"classifier.pooling": "cross_layer", "classifier.tap": "stem"}, "but 'stem' is the first block"),
        (
            {"classifier.pooling": "cross_layer", "classifier.tap": "stem", "classifier.cross_tap": "stage1"},
            "which is not below the tap 'stem'",
        ),
        ({"classifier.kind": "knn", "classifier.num_neighbors": [100]}, "there are only 24 training images"),
    ],
)
def test_an_impossible_classifier_is_an_error(fields, sentence):
    with pytest.raises(jaxft.UserError, match=re.escape(sentence)):
        make_plan(training(**fields))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"classifier.kind": "network", "classifier.tap": "stage1"},
            "'training.classifier.tap' is 'stage1', which only classifiers of features use",
        ),
        (
            {"classifier.kind": "network", "classifier.pooling": "max"},
            "'training.classifier.pooling' is 'max', which only classifiers of features use",
        ),
        ({"classifier.penalties": []}, "'training.classifier.penalties' is empty"),
        ({"classifier.penalties": [0.0]}, "'training.classifier.penalties' is [0.0]"),
        ({"classifier.kind": "tree"}, "'training.classifier.kind' is 'tree'"),
        ({"selection.test_crops": "ten", "augmentation.crop.size_px": 6}, "the classifier 'logistic' needs 'center'"),
    ],
)
def test_contradictory_fields_of_a_classifier_are_an_error(fields, sentence):
    with pytest.raises(jaxft.UserError, match=re.escape(sentence)):
        training(**fields)


def test_a_source_is_a_network():
    with pytest.raises(jaxft.UserError, match="a source must be a 'network'"):
        study(source={"images": {"data": "digits"}, "training": {"classifier.kind": "svm"}})


def test_several_levels_need_validation_images():
    none = STUDY["target"] | {"val_per_class": 0}
    with pytest.raises(jaxft.UserError, match="has 7 values, but there are no validation images"):
        make_plan(study(target=none, factors=[], training={"initialization.start": "random", "classifier.kind": "svm"}))
    one = {"initialization.start": "random", "classifier.kind": "svm", "classifier.penalties": [0.1]}
    assert make_plan(study(target=none, factors=[], training=one)).trials[0].feature_classifier.levels == (0.1,)


def test_features_beyond_the_memory_budget_are_an_error():
    model = create_model("cifar_resnet8", 3)
    wide = Training.of({"classifier.kind": "svm", "classifier.tap": "stage3", "classifier.pooling": "bilinear"})
    with pytest.raises(jaxft.UserError, match=r"gives 2,080 features per image for 'stage3/block1', 0.2 MB in total"):
        plan_feature_classifier(model, wide, PLAIN, (10, 5, 5), 1e5)


def test_neighbors_beyond_the_training_images_are_left_out():
    model = create_model("cifar_resnet8", 3)
    assert plan_feature_classifier(model, Training.of({"classifier.kind": "knn"}), PLAIN, (6, 5, 9), 1e9).levels == (
        1,
        3,
        5,
    )


# --- documentation and config ---


@pytest.mark.nightly
@pytest.mark.slow
def test_the_config_runs_at_its_small_size(root, real_data, tmp_path):
    from jaxft.config import load_config

    small = load_config(f"{root}/configs/off_the_shelf.py:small,{real_data}")
    results = jaxft.run_study(small.study, tmp_path / "study", quiet=True)
    assert len(results) == 2 * (12 + 5 + 8) and (results["status"] == "done").all()
    averages = results.groupby(["training.classifier.tap", "training.classifier.kind"])["test_accuracy"].mean()
    assert averages["stage3"].mean() > 1 / 6
