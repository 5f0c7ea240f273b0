"""The identity of a trial: every field changes the digest or is exempt."""

import dataclasses
import json
import typing
from typing import Literal

import numpy as np
import pytest
from golden import defaults

from jaxft.config import (
    SCHEMA_VERSION,
    Execution,
    Images,
    Source,
    Streams,
    Study,
    Training,
    Trial,
    digest,
    fields_of,
    from_dict,
)
from jaxft.config.identity import EXEMPTIONS, exemption, identity
from jaxft.study.plan import make_plan

CONTENT = {"images": "i", "split": "s", "weights": "w", "preprocessing": {"size_px": 8}}
TRIALS = {
    "network": Trial(),
    "network from images": Trial(source=Source(images=Images()), target=Images(val_fraction=0.2)),
    "manifest": Trial(target=Images(manifest="a.json")),
    "shuffled manifest": Trial(target=Images(manifest="a.json", shuffle_px=2)),
    **{
        kind: Trial(
            training=Training.of(
                {"initialization.start": "random", "classifier.kind": kind, "classifier.pooling": "cross_layer"}
            )
        )
        for kind in ("logistic", "svm", "knn", "class_mean")
    },
    "average": Trial(training=Training.of({"classifier.kind": "svm"})),
}
# Fields of the section `training` that affect a classifier of features: those of its network and its images.
OF_CLASSIFIERS = {f"initialization.{name}" for name in ("start", "transferred_blocks", "grow", "grown_features")}
OF_CLASSIFIERS |= {
    "augmentation.crop.size_px",
    *(f"classifier.{name}" for name in ("kind", "tap", "pooling", "scaling")),
}
DECIDE_OTHERS = {
    "seed",
    "target.manifest",
    "target.shuffle_px",
}  # fields that also decide whether another field is exempt


def other(value, hint):
    """Returns an allowed value of a field that differs from `value`."""
    choices = [choice for choice in typing.get_args(hint) if choice != value]
    if typing.get_origin(hint) is Literal:
        return choices[0]
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case tuple():
            return (*value, 7)
    return "x"


def set_at(config, dotted, change):
    """Returns `config` with a dotted field put through `change(value, hint)`."""
    name, _, rest = dotted.partition(".")
    value, hint = getattr(config, name), typing.get_type_hints(type(config))[name]
    value = set_at(value, rest, change) if rest else change(value, hint)
    return dataclasses.replace(config, **{name: value})


@pytest.mark.parametrize("trial", TRIALS.values(), ids=TRIALS)
def test_every_field_changes_the_digest_or_is_listed(trial):
    before = digest(identity(trial, Execution(), CONTENT))
    for name, _, _ in fields_of(trial):
        varied = set_at(trial, name, other)
        after = digest(identity(varied, Execution(), CONTENT))
        if name in DECIDE_OTHERS and exemption(name, trial):
            assert name not in identity(varied, Execution(), CONTENT)["fields"]
        else:
            assert (after == before) == (exemption(name, trial) is not None), name
    for name, _, _ in fields_of(Execution(), "execution"):
        execution = set_at(Execution(), name.removeprefix("execution."), other)
        after = digest(identity(trial, execution, CONTENT))
        assert (after == before) == (exemption(name, trial) is not None), name
    for name in CONTENT:
        assert digest(identity(trial, Execution(), CONTENT | {name: "other"})) != before


def test_the_fields_of_the_identity_match_a_list_made_by_hand():
    """By hand: the fields that are not exempt, for each kind of trial."""

    def counted(kind):
        trial = TRIALS[kind]
        names = [name for name, _, _ in (*fields_of(trial), *fields_of(Execution(), "execution"))]
        return {name for name in names if exemption(name, trial) is None}

    training = {name for name, _, _ in fields_of(Training(), "training")}
    of_features = {name for name in training if name.startswith("training.classifier.")} - {"training.classifier.kind"}
    drawn = {"train_per_class", "num_images", "imbalance", "val_per_class", "val_fraction", "train_on_val"}
    drawn |= {"test_fraction", "test_per_class", "tested", "label_noise"}
    always = {"source.model", "execution.precision"} | {f"target.{name}" for name in drawn}
    batches = {"streams.order", "streams.augment"}
    assert counted("network") == always | (training - of_features) | batches | {"streams.split", "streams.init"}
    assert counted("network from images") == counted("network") | {"streams.fold"}
    assert counted("manifest") == counted("network") - {"streams.split"}
    assert counted("shuffled manifest") == counted("network")
    base = always | {f"training.{name}" for name in OF_CLASSIFIERS} | {"streams.split", "streams.init"}
    cross, weighted = {"training.classifier.cross_tap"}, {"training.loss.class_weights", "training.loss.beta"}
    assert counted("logistic") == counted("svm") == base | cross | weighted | {"training.classifier.penalties"}
    assert counted("average") == counted("svm") - cross
    assert counted("knn") == base | cross | {"training.classifier.num_neighbors", "training.classifier.metric"}
    assert counted("class_mean") == base | cross | {"training.classifier.metric"}


def test_every_exemption_has_fields_that_exist_and_a_reason():
    trial = Trial(source=Source(images=Images()))
    names = [name for name, _, _ in (*fields_of(trial), *fields_of(Execution(), "execution"))]
    for each in EXEMPTIONS:
        assert len(each.reason) > 20
        for field in each.fields:
            assert any(dataclasses.replace(each, fields=(field,)).covers(name) for name in names), field


def test_a_new_field_is_part_of_the_identity_of_trials_that_set_it(monkeypatch):
    """A field that is not in the exemptions gives another trial."""

    @dataclasses.dataclass(frozen=True)
    class Newer(Training):
        newest: float = 0.0

    for kind in ("network", "logistic"):
        usual = dataclasses.replace(TRIALS[kind], training=Newer(classifier=TRIALS[kind].training.classifier))
        varied = set_at(usual, "training.newest", other)
        assert identity(varied, Execution(), CONTENT)["fields"]["training.newest"] == 1.0
        assert identity(usual, Execution(), CONTENT) != identity(varied, Execution(), CONTENT)


def test_the_identity_contains_the_seeds_of_streams():
    pinned = Trial(streams=Streams(init=5), seed=3)
    fields = identity(pinned, Execution(), CONTENT)["fields"]
    assert fields == {"streams.split": 3, "streams.init": 5, "streams.order": 3, "streams.augment": 3}


# --- content in the place of fields -----------------------------------------------------------------------------


@pytest.fixture
def sets(tmp_path):
    """Returns two image files, each with 12 images of each of three classes in two domains."""
    rng = np.random.default_rng(0)
    found = []
    for name in ("one", "two"):
        images = rng.integers(0, 256, (36, 8, 8, 3), np.uint8)
        labels = np.tile(np.arange(3), 12)
        named = {"class_names": np.array(["a", "b", "c"]), "domain": np.repeat(["x", "y"], 18)}
        np.savez(tmp_path / f"{name}.npz", images=images, labels=labels, coarse=labels // 2, **named)
        found.append(str(tmp_path / f"{name}.npz"))
    return found


def test_fields_that_are_covered_by_the_images_change_the_digest(sets):
    one, two = sets
    target = {"data": one, "train_per_class": 2, "test_per_class": 1}
    levels = {
        "data": [two],
        "classes": [["a", "b"], ["b", "c"], ["a", "b", "c"]],
        "num_classes": [2],
        "size_px": [16],
        "gray": [True],
        "shuffle_px": [4],
        "union": [[two]],
    }
    digests = {}
    for name, values in levels.items():
        for value in values:
            study = {
                "seeds": 1,
                "target": target | {name: value},
                "training": {"initialization.start": "random", "batches.size": 2},
            }
            digests[name, str(value)] = make_plan(from_dict(Study, study)).trials[0].digest
    assert len(set(digests.values())) == len(digests)


# --- defaults ---------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_committed_table():
    """A changed default changes the meaning of old digests, so it needs a new schema version."""
    table = json.loads(defaults.TABLE.read_text())
    assert defaults.problem(table, defaults.current()) is None
    assert defaults.current() == table, "run `python tests/golden/defaults.py`"


def test_a_changed_default_needs_a_new_schema_version():
    table = json.loads(defaults.TABLE.read_text())
    altered = table | {"defaults": table["defaults"] | {"training.optimizer.momentum": 0.8}}
    assert "training.optimizer.momentum changed" in defaults.problem(table, altered)
    assert "training.optimizer.momentum changed" in defaults.problem(table, altered | {"schema": SCHEMA_VERSION - 1})
    assert defaults.problem(table, altered | {"schema": SCHEMA_VERSION + 1}) is None
    assert "training.schedule.epochs" in defaults.problem(
        table, table | {"defaults": table["defaults"] | {"training.schedule.epochs": 20}}
    )
    assert defaults.problem(table, table | {"defaults": table["defaults"] | {"training.newest": 1}}) is None
