"""Configs: checks of every field, factors, digests, files and overrides."""

import copy
import dataclasses
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.config import (
    Images,
    Source,
    Streams,
    Study,
    Training,
    Trial,
    digest,
    fields_of,
    from_dict,
    get_at,
    load_config,
    non_default,
    to_dict,
)
from jaxft.config.training import InitializationConfig, LayersConfig, OptimizerConfig, ScheduleConfig
from jaxft.core.errors import UserError

CONFIGS = sorted(path.stem for path in (Path(__file__).parents[2] / "configs").glob("*.py"))
RANDOM = {"training": {"initialization.start": "random"}}
SELECTED = RANDOM | {
    "target": {"val_per_class": 5},
    "factors": [{"training.schedule.epochs": [1, 2]}],
    "select_over": ["training.schedule.epochs"],
}


def study(**fields):
    """Returns a study of random networks (they need no source) with some fields set."""
    fields = {name: dict(value) if isinstance(value, dict) else value for name, value in fields.items()}
    fields["training"] = {"initialization.start": "random", **fields.get("training", {})}
    return from_dict(Study, fields)


def nested(dotted, value):
    """Returns {'a': {'b': value}} for 'a.b'."""
    for name in reversed(dotted.split(".")):
        value = {name: value}
    return value


# --- wrong values -----------------------------------------------------------------------------------------------

WRONG = [
    ("target.data", True, "allowed: a string"),
    ("target.classes", "cat", "allowed: a list of strings or None"),
    ("target.classes", [True, "b"], "allowed: a list of strings or None"),
    ("target.size_px", 0, "allowed: an integer at least 1 and at most 4096 or None"),
    ("target.size_px", 32.5, "allowed: an integer at least 1 and at most 4096 or None"),
    ("target.train_per_class", 0, "allowed: an integer at least 1 or None"),
    ("target.val_per_class", -1, "allowed: an integer at least 0"),
    ("target.val_per_class", None, "allowed: an integer at least 0"),
    ("target.val_per_class", True, "allowed: an integer at least 0"),
    (
        "training.initialization.start",
        "pretraind",
        "allowed: 'pretrained' or 'random' or 'mean_var' (did you mean 'pretrained'?)",
    ),
    (
        "training.optimizer.name",
        "adamv",
        "allowed: 'sgd' or 'adam' or 'adamw' or 'lamb' or 'lion' (did you mean 'adam'?)",
    ),
    ("training.optimizer.name", 1, "allowed: 'sgd' or 'adam' or 'adamw' or 'lamb' or 'lion'"),
    ("training.optimizer.learning_rate", "fast", "allowed: a number above 0"),
    ("training.optimizer.learning_rate", 0, "allowed: a number above 0"),
    ("training.optimizer.learning_rate", float("nan"), "allowed: a number above 0"),
    ("training.optimizer.learning_rate", float("inf"), "allowed: a number above 0 and at most 3.402823466e+38"),
    (
        "training.layers.backbone_learning_rate",
        "frosen",
        "allowed: a number above 0 or 'frozen' or None (did you mean 'frozen'?)",
    ),
    ("training.layers.backbone_learning_rate", 0.0, "allowed: a number above 0 or 'frozen' or None"),
    ("training.layers.rates", {"head/.*": 1.0}, "allowed: a list of pairs (pattern, multiplier or 'frozen')"),
    ("training.layers.rates", [["head/.*", 1.0, 2.0]], "allowed: a list of pairs (pattern, multiplier or 'frozen')"),
    ("training.layers.rates", [["head/.*", -1.0]], "allowed: a list of pairs (pattern, multiplier or 'frozen')"),
    ("training.optimizer.momentum", 1.0, "allowed: a number at least 0 and below 1"),
    ("training.optimizer.nesterov", "yes", "allowed: True or False"),
    ("training.optimizer.nesterov", 1, "allowed: True or False"),
    ("training.optimizer.weight_decay", -0.1, "allowed: a number at least 0"),
    ("training.loss.label_smoothing", 1, "allowed: a number at least 0 and below 1"),
    ("training.schedule.epochs", -1, "allowed: a number at least 0 and below 100000"),
    ("training.linear_probe.optimizer", "lbfg", "allowed: 'same' or 'lbfgs' (did you mean 'lbfgs'?)"),
    ("training.batches.size", 0, "allowed: an integer at least 1 and at most 1048576"),
    (
        "training.schedule.shape",
        "cosin",
        "allowed: 'constant' or 'cosine' or 'linear' or 'step' or 'onecycle' or 'range' (did you mean 'cosine'?)",
    ),
    ("training.schedule.decay_epochs", [0], "allowed: a list of numbers"),
    ("training.schedule.decay_factor", 1.5, "allowed: a number above 0 and at most 1"),
    (
        "training.batch_norm.statistics",
        "freeze",
        "allowed: 'tracked' or 'frozen' or 'recalibrated' (did you mean 'frozen'?)",
    ),
    ("training.augmentation.flip.enabled", None, "allowed: True or False"),
    ("training.selection.weights", "bets", "allowed: 'best' or 'last' (did you mean 'best'?)"),
    ("source.model", None, "allowed: a string"),
    ("source.images", "digits", "allowed: a dict of fields or None"),
    ("source.images.size_px", "big", "allowed: an integer at least 1 and at most 4096 or None"),
    ("source.training.optimizer.learning_rate", -1, "allowed: a number above 0"),
    ("streams.split", -1, "allowed: an integer at least 0 and at most 4294967295 or None"),
    (
        "execution.executor",
        "vmpa",
        "allowed: 'auto' or 'sequential' or 'workers' or 'vmap' or 'devices' or 'pmap' or 'data_parallel' "
        "(did you mean 'vmap'?)",
    ),
    ("execution.width", -1, "allowed: an integer at least 0 and at most 100000"),
    ("title", [7], "allowed: a string"),
]


@pytest.mark.parametrize(("field", "value", "allowed"), WRONG, ids=[f"{f}={v!r}" for f, v, _ in WRONG])
def test_a_wrong_value_is_one_sentence_with_field_value_and_what_is_allowed(field, value, allowed):
    with pytest.raises(UserError) as error:
        from_dict(Study, nested(field, value))
    assert str(error.value) == f"config field {field!r} is {value!r}; {allowed}."


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trainin": {}}, "unknown config field 'trainin' (did you mean 'training'?)"),
        (
            {"training": {"learning_rat": 1}},
            "unknown config field 'training.learning_rat' (did you mean 'training.optimizer.learning_rate'?)",
        ),
        (
            {"source": {"images": {"clases": []}}},
            "unknown config field 'source.images.clases' (did you mean 'classes'?)",
        ),
        (
            {"target": {"xyzzy": 1}},
            "'target' has data, domain, label, unreadable, union, classes, num_classes, ",
        ),
        (
            {"training": "fast"},
            "config field 'training' is 'fast', but it is a section; allowed: a dict of its fields.",
        ),
        (
            {"seeds": "many"},
            "config field 'seeds' is 'many'; allowed: a number of seeds, or a list of seeds from 0 to 4294967295.",
        ),
        ({"seeds": [0, -1]}, "config field 'seeds' is [0, -1]; allowed:"),
        ({"seeds": [0, 0]}, "config field 'seeds' is [0, 0]; it needs at least one seed, each only once."),
        ({"seeds": 0}, "config field 'seeds' is 0; it needs at least one seed"),
        ({"seeds": True}, "config field 'seeds' is True; allowed:"),
        (
            {"factors": "training.schedule.epochs"},
            "config field 'factors' is 'training.schedule.epochs'; allowed: a list of blocks",
        ),
        ({"factors": [{"learning_rate": [1]}]}, "factor 'learning_rate' is not a field of a trial"),
        (
            {"factors": [{"training.schedule.epochs": 3}]},
            "factor 'training.schedule.epochs' is 3; allowed: a list with at least one level.",
        ),
        ({"factors": [{"training.schedule.epochs": []}]}, "factor 'training.schedule.epochs' is []; allowed:"),
        (
            RANDOM | {"factors": [{"training.epoch": [1]}]},
            "unknown config field 'training.epoch' (did you mean '",
        ),
        (
            RANDOM | {"factors": [{"training.schedule.epochs": [1, 0]}]},
            "'training.schedule.epochs' and 'training.linear_probe.epochs' are both 0, so nothing is trained; "
            "set one of them.",
        ),
        (
            SELECTED | {"select_over": ["training.epoch"]},
            "config field 'select_over' contains 'training.epoch' (did you mean 'training.schedule.epochs'?), "
            "which is not a factor of this study; its factors are training.schedule.epochs.",
        ),
        (
            RANDOM | {"select_over": ["training.schedule.epochs"]},
            "which is not a factor of this study; its factors are none.",
        ),
        (
            SELECTED | {"select_over": ["training.schedule.epochs"] * 2},
            "'training.schedule.epochs']; name each factor once.",
        ),
        (
            SELECTED | {"target": {"val_per_class": 0}},
            "'select_over' selects on validation images, but 'target.val_per_class' is 0; give "
            "'target.val_per_class' or 'target.val_fraction'.",
        ),
        ({"training": {"schedule.shape": "step"}}, "config field 'training.schedule.decay_epochs' is empty"),
        (
            {"training": {"schedule.warmup_epochs": 20}},
            "config field 'training.schedule.warmup_epochs' is 20; it must be below 'training.schedule.epochs', 20.",
        ),
        (
            {"training": {"schedule.epochs": 0}},
            "'training.schedule.epochs' and 'training.linear_probe.epochs' are both 0, so nothing is trained; "
            "set one of them.",
        ),
        (
            {
                "training": {
                    "linear_probe.epochs": 1,
                    "linear_probe.optimizer": "lbfgs",
                    "augmentation.flip.enabled": True,
                }
            },
            "'training.linear_probe.optimizer' is 'lbfgs', which needs the same images in every iteration; set "
            "'training.augmentation.views'",
        ),
        (
            {"training": {"augmentation.views": 2}},
            "'training.augmentation.views' is 2, but all views are equal without augmentation; turn on flip, "
            "crop.scale_min or another augmentation.",
        ),
        (
            {"training": {"augmentation.views": 2, "augmentation.flip.enabled": True, "augmentation.mixup.alpha": 0.2}},
            "'training.augmentation.mixup.alpha' is 0.2, which mixes new images in every batch, but "
            "'training.augmentation.views' 2 needs the same images in every epoch; keep one of them.",
        ),
        (
            {"training": {"linear_probe.epochs": 1, "linear_probe.optimizer": "lbfgs", "augmentation.cutmix.alpha": 1}},
            "'training.augmentation.cutmix.alpha' is 1, which mixes new images in every batch, but "
            "'training.linear_probe.optimizer' 'lbfgs' needs the same images in every epoch; keep one of them.",
        ),
        (
            {"training": {"linear_probe.epochs": 1, "linear_probe.optimizer": "lbfgs", "batches.sampling": "balanced"}},
            "'training.batches.sampling' is 'balanced', but the linear probe 'lbfgs' uses all images in each step; "
            "set 'training.loss.class_weights' to 'inverse' instead.",
        ),
        (
            {"training": {"selection.test_crops": "ten"}},
            "'training.selection.test_crops' is 'ten', which crops larger images; set "
            "'training.augmentation.crop.size_px' to less than the size_px of the images.",
        ),
        (
            {"training": {"schedule.steps": 10, "schedule.epochs": 3}},
            "'training.schedule.steps' and 'training.schedule.epochs' are both given; keep one of them.",
        ),
        (
            {"training": {"optimizer.effective_learning_rate": 0.1, "optimizer.learning_rate": 0.1}},
            "'training.optimizer.effective_learning_rate' and 'training.optimizer.learning_rate' are both given; "
            "keep one of them.",
        ),
        (
            {"training": {"optimizer.effective_learning_rate": 0.1, "optimizer.name": "lamb"}},
            "'training.optimizer.effective_learning_rate' is only for 'sgd', because the momentum of 'lamb' does "
            "not scale its steps; give 'training.optimizer.learning_rate'.",
        ),
        (
            {"training": {"layers.unfreeze_epochs": [2, 1]}},
            "'training.layers.unfreeze_epochs' is [2.0, 1.0]; the epochs must increase.",
        ),
        (
            {"training": {"layers.unfreeze_epochs": [1], "schedule.epochs": 0, "linear_probe.epochs": 2}},
            "'training.layers.unfreeze_epochs' is [1.0], but 'training.schedule.epochs' is 0, so no stage is unfrozen"
            "; leave one of them out.",
        ),
        (
            {"training": {"optimizer.nesterov": True, "optimizer.name": "lion"}},
            "'training.optimizer.nesterov' is True, but 'lion' has no Nesterov momentum.",
        ),
        (
            {"training": {"batches.accumulate": 5}},
            "'training.batches.accumulate' is 5; it must divide 'training.batches.size', 32.",
        ),
        (
            {"source": {"training": {"initialization.start": "pretrained"}}},
            "'source.training.initialization.start' is 'pretrained'",
        ),
        ({"source": {"weights": "a", "images": {}}}, "'source.weights' and 'source.images' are both given"),
        ({}, "'training.initialization.start' is 'pretrained', which needs pretrained weights"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_a_wrong_config_is_one_sentence(fields, message):
    with pytest.raises(UserError) as error:
        from_dict(Study, fields)
    assert message in str(error.value)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("training.schedule.epochs", 3, 3.0),
        ("training.batches.size", 16.0, 16),
        ("training.layers.backbone_learning_rate", 1, 1.0),
        ("training.layers.backbone_learning_rate", "frozen", "frozen"),
        ("training.layers.rates", [["stem/.*", "frozen"], ["head/.*", 2]], (("stem/.*", "frozen"), ("head/.*", 2.0))),
        ("target.classes", ["1", "2"], ("1", "2")),
    ],
)
def test_values_are_kept_as_the_type_of_their_field(field, value, kept):
    fields = nested(field, value)
    fields.setdefault("training", {})["initialization"] = {"start": "random"}
    found = get_at(from_dict(Study, fields), field)
    assert found == kept and type(found) is type(kept)


def test_a_field_that_is_left_out_has_the_default_of_its_section():
    # A source is trained from random weights by default; naming one field of its training must not change that.
    config = from_dict(Study, {"source": {"images": {}, "training": {"schedule.epochs": 3}}})
    assert config.source.training == Training.of({"initialization.start": "random", "schedule.epochs": 3.0})
    assert config.training == Training()


# --- round trip, differences, digests ---------------------------------------------------------------------------

RATES = st.floats(1e-6, 10)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
PATTERNS = st.sampled_from(["", ".*", "head/.*", "stage1/conv[12]/kernel", "é|ü"])
IMAGES = st.builds(
    Images,
    data=st.sampled_from(["digits", "a.npz"]),
    classes=st.none() | st.lists(TEXTS, max_size=3).map(tuple),
    size_px=st.none() | st.integers(1, 64),
    val_per_class=st.integers(0, 9),
)
TRAININGS = st.builds(
    Training,
    initialization=st.just(InitializationConfig(start="random")),
    optimizer=st.builds(
        OptimizerConfig, name=st.sampled_from(["sgd", "adamw"]), learning_rate=RATES, nesterov=st.booleans()
    ),
    layers=st.builds(
        LayersConfig,
        backbone_learning_rate=st.none() | st.just("frozen") | RATES,
        rates=st.lists(st.tuples(PATTERNS, st.just("frozen") | RATES), max_size=2).map(tuple),
    ),
    schedule=st.builds(ScheduleConfig, decay_epochs=st.lists(st.floats(0.5, 9), max_size=2).map(tuple)),
)
STUDIES = st.builds(
    Study,
    title=TEXTS,
    source=st.builds(Source, images=st.none() | IMAGES, training=TRAININGS),
    target=IMAGES,
    training=TRAININGS,
    streams=st.builds(Streams, split=st.none() | st.integers(0, 2**32 - 1)),
    seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=4, unique=True).map(tuple),
    factors=st.lists(
        st.fixed_dictionaries(
            {"training.optimizer.learning_rate": st.lists(RATES, min_size=2, max_size=2, unique=True).map(tuple)}
        ),
        max_size=2,
    ).map(tuple),
)


@given(STUDIES)
def test_to_and_from_a_dict_and_json_is_the_identity(config):
    import json

    assert from_dict(Study, json.loads(json.dumps(to_dict(config)))) == config


@given(STUDIES.map(lambda config: config.trials()[0]))
def test_non_default_fields_make_the_same_trial(trial):
    assert from_dict(Trial, non_default(trial)) == trial


def test_non_default_contains_only_fields_that_differ():
    assert non_default(Training()) == {}
    assert non_default(Training.of({"optimizer.learning_rate": 0.5, "schedule.decay_epochs": (1.0,)})) == {
        "optimizer": {"learning_rate": 0.5},
        "schedule": {"decay_epochs": [1.0]},
    }
    # The default of a field is that of its section: a source's training starts at random.
    assert non_default(Source()) == {}
    assert non_default(Source(training=Training())) == {"training": {"initialization": {"start": "pretrained"}}}
    assert non_default(Source(images=Images(size_px=8))) == {"images": {"size_px": 8}}
    assert non_default(Source(images=Images())) == {"images": {}}


IDENTITY = {"b": [1, 2.5, None], "a": {"d": "é", "c": True}}


def test_a_digest_is_known_and_does_not_depend_on_the_order_of_fields():
    # sha256sum of {"a":{"c":true,"d":"\u00e9"},"b":[1,2.5,null],"schema":6}
    assert digest(IDENTITY) == "c6f52fed3ec05e20"
    assert digest(dict(reversed(IDENTITY.items()))) == digest(IDENTITY)


def planned_digest(fields):
    from jaxft.study.plan import make_plan

    return make_plan(from_dict(Study, fields)).trials[0].digest


TINY = {
    "seeds": 1,
    "target": {"size_px": 8, "train_per_class": 5},
    "training": {"initialization.start": "random", "batches.size": 8},
}


def in_another_process(code):
    """Returns the output of a Python process with other string hashes and one CPU device."""
    env = os.environ | {"PYTHONHASHSEED": "1234", "XLA_FLAGS": ""}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_digest_is_the_same_in_another_process():
    code = (
        "from jaxft.config import Study, digest, from_dict, non_default;"
        f"print(digest(non_default(from_dict(Study, {TINY!r}).trials()[0])))"
    )
    assert in_another_process(code) == digest(non_default(from_dict(Study, TINY).trials()[0]))


@pytest.mark.slow
def test_a_planned_trials_digest_is_the_same_in_another_process():
    code = (
        "from jaxft.config import Study, from_dict; from jaxft.study.plan import make_plan;"
        f"print(make_plan(from_dict(Study, {TINY!r})).trials[0].digest)"
    )
    assert in_another_process(code) == planned_digest(TINY)


def test_writing_out_every_default_does_not_change_a_trials_digest():
    written_out = to_dict(from_dict(Study, TINY))
    assert len(written_out["training"]) == len(dataclasses.fields(Training))
    assert planned_digest(written_out) == planned_digest(TINY)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seeds", [1]),
        ("source.model", "cifar_resnet14"),
        ("target.size_px", 16),
        ("target.train_per_class", 6),
        ("target.val_per_class", 1),
        ("target.classes", ["1", "2"]),
        ("training.optimizer.learning_rate", 0.02),
        ("training.schedule.epochs", 3),
        ("training.augmentation.flip.enabled", True),
        ("training.augmentation.crop.size_px", 7),
        ("training.augmentation.randaugment.num_operations", 1),
        ("training.augmentation.color_jitter.hue", 0.1),
        ("training.augmentation.erasing.probability", 0.5),
        ("training.augmentation.mixup.alpha", 0.2),
        ("training.augmentation.cutmix.alpha", 1.0),
        ("training.batches.sampling", "balanced"),
        ("training.loss.class_weights", "effective"),
        ("streams.order", 5),
    ],
)
def test_a_field_that_affects_the_result_changes_the_digest(field, value):
    section, _, name = field.partition(".")
    changed = TINY | {section: {**TINY.get(section, {}), name: value} if name else value}
    assert planned_digest(changed) != planned_digest(TINY)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", "another"),
        ("execution", {"executor": "vmap", "width": 3, "eval_batch_size": 64}),
        ("streams", {"init": 0, "split": 0}),  # the trial's seed is 0 already
        ("source", {"training": {"schedule.epochs": 3}}),  # nothing starts from the source
    ],
)
def test_a_field_that_does_not_affect_the_result_keeps_the_digest(field, value):
    assert planned_digest(TINY | {field: value}) == planned_digest(TINY)


def test_every_field_has_its_help_text():
    assert [name for name, _, field in fields_of(Study()) if not field.metadata.get("help")] == []


# --- factors, seeds, streams ------------------------------------------------------------------------------------


def test_no_factors_is_one_setting():
    trials = study(seeds=[3, 5]).trials()
    assert [trial.seed for trial in trials] == [3, 5]
    assert len({dataclasses.replace(trial, seed=0) for trial in trials}) == 1


def test_a_block_is_a_product():
    config = study(
        seeds=2, factors=[{"training.optimizer.learning_rate": [0.1, 0.2], "target.train_per_class": [5, 10, 20]}]
    )
    found = {(t.training.optimizer.learning_rate, t.target.train_per_class, t.seed) for t in config.trials()}
    assert found == {(rate, n, seed) for rate in (0.1, 0.2) for n in (5, 10, 20) for seed in (0, 1)}
    assert len(config.trials()) == 2 * 3 * 2
    assert config.factor_names() == ("training.optimizer.learning_rate", "target.train_per_class")


def test_settings_are_the_union_of_blocks_without_duplicates():
    blocks = [
        {"training.optimizer.learning_rate": [0.1, 0.2]},
        {"training.optimizer.learning_rate": [0.2, 0.4], "training.augmentation.flip.enabled": [False]},
    ]
    rates = [trial.training.optimizer.learning_rate for trial in study(seeds=1, factors=blocks).trials()]
    assert rates == [0.1, 0.2, 0.4]


def test_one_block_needs_no_list():
    assert len(study(seeds=1, factors={"training.schedule.epochs": [1, 2]}).trials()) == 2


def test_a_level_may_hold_fields():
    config = study(seeds=1, factors=[{"source.images": [None, {"size_px": 8}]}])
    assert [trial.source.images for trial in config.trials()] == [None, Images(size_px=8)]


def test_the_quickstart_has_9_settings_and_45_trials(root):
    # pretrained x (frozen + 4 rates) and random x 4 rates; 5 seeds of each
    trials = load_config(str(root / "configs/quickstart.py")).study.trials()
    settings = {(t.training.initialization.start, t.training.layers.backbone_learning_rate) for t in trials}
    assert len(trials) == 45
    assert len(settings) == 9 and ("random", "frozen") not in settings
    assert {t.seed for t in trials} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("seeds", "meant"), [(3, (0, 1, 2)), ([7, 2], (7, 2)), (1, (0,))])
def test_seeds_are_a_number_or_a_list(seeds, meant):
    assert study(seeds=seeds).seeds == meant


def test_a_stream_with_a_fixed_seed_does_not_vary_and_the_others_do():
    trials = study(seeds=[4, 6], streams={"split": 9}).trials()
    assert [trial.stream_seed("split") for trial in trials] == [9, 9]
    assert [trial.stream_seed("order") for trial in trials] == [4, 6]
    assert [trial.stream_seed("source") for trial in trials] == [0, 0]  # pinned by default
    unpinned = study(seeds=[4, 6], streams={"source": None}).trials()
    assert [trial.stream_seed("source") for trial in unpinned] == [4, 6]


@pytest.mark.parametrize("path", ["training.optimizer.learning_rate", "source.images.size_px", "target"])
def test_get_at(path):
    config = Trial(source=Source(images=Images(size_px=8)))
    expected = {"training.optimizer.learning_rate": 0.01, "source.images.size_px": 8, "target": Images()}
    assert get_at(config, path) == expected[path]


def test_get_at_is_none_below_none():
    assert get_at(Trial(), "source.images.size_px") is None


# --- config files -----------------------------------------------------------------------------------------------

CONFIG = '''"""Which rate is best?"""
from ml_collections import ConfigDict


def get_config(arg="0.01"):
    config = ConfigDict()
    config.training = {"initialization": {"start": "random"}, "optimizer": {"learning_rate": float(arg)}}
    config.target = {"train_per_class": 5}
    config.seeds = 2
    config.factors = [{"training.schedule.epochs": [1.0, 2.0]}]
    return config
'''


@pytest.fixture
def config_path(tmp_path):
    """Returns the path of a config file."""
    path = tmp_path / "best_rate.py"
    path.write_text(CONFIG)
    return str(path)


def test_a_config_file_gives_study_docstring_and_title(config_path):
    loaded = load_config(config_path)
    assert loaded.docstring == "Which rate is best?"
    assert loaded.path == config_path and loaded.overrides == ()
    assert loaded.study == study(
        title="best rate",
        training={"optimizer.learning_rate": 0.01},
        target={"train_per_class": 5},
        seeds=2,
        factors=[{"training.schedule.epochs": [1.0, 2.0]}],
    )


def test_an_argument_of_a_config_file_follows_a_colon(config_path):
    loaded = load_config(config_path + ":0.5")
    assert loaded.study.training.optimizer.learning_rate == 0.5
    assert loaded.path == config_path


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("training.optimizer.learning_rate=0.25", "training.optimizer.learning_rate", 0.25),
        ("training.optimizer.learning_rate=1e-4", "training.optimizer.learning_rate", 1e-4),
        ("training.optimizer.name=adamw", "training.optimizer.name", "adamw"),
        ("training.layers.backbone_learning_rate=frozen", "training.layers.backbone_learning_rate", "frozen"),
        ("training.augmentation.flip.enabled=true", "training.augmentation.flip.enabled", True),
        ("training.augmentation.flip.enabled=True", "training.augmentation.flip.enabled", True),
        ("target.train_per_class=none", "target.train_per_class", None),
        ("target.classes=['1', '2']", "target.classes", ("1", "2")),
        ("target.data=a=b.npz", "target.data", "a=b.npz"),
        ("seeds=[4]", "seeds", (4,)),
        ("title=Best", "title", "Best"),
        ("factors=[]", "factors", ()),
    ],
)
def test_an_override_replaces_one_field(config_path, override, field, value):
    loaded = load_config(config_path, [override])
    assert get_at(loaded.study, field) == value
    assert loaded.overrides == (override,)
    usual = load_config(config_path).study
    assert [name for name, other, _ in fields_of(loaded.study) if other != get_at(usual, name)] == [field]


def test_an_override_may_name_a_field_below_one_that_is_none(config_path):
    assert load_config(config_path, ["source.images.size_px=8"]).study.source.images == Images(size_px=8)


def test_the_last_override_of_a_field_wins(config_path):
    overrides = ["training.optimizer.learning_rate=1.0", "training.optimizer.learning_rate=2.0"]
    assert load_config(config_path, overrides).study.training.optimizer.learning_rate == 2.0


@pytest.mark.parametrize(
    "blocks", ["[{'training.schedule.epochs': [1.0, 2.0]}]", "{'training.schedule.epochs': [1.0, 2.0]}"]
)
def test_overriding_a_factor_is_an_error(tmp_path, blocks):
    path = tmp_path / "config.py"
    path.write_text(
        "def get_config(arg=''):\n    return "
        f"{{'training': {{'initialization.start': 'random'}}, 'factors': {blocks}}}\n"
    )
    with pytest.raises(
        UserError, match=r"training\.schedule\.epochs is a factor of this study, so it cannot be overridden"
    ):
        load_config(str(path), ["training.schedule.epochs=5"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rat=1", "unknown config field 'training.learning_rat'"),
        ("training.optimizer.learning_rate.peak=1", "unknown config field 'training.optimizer.learning_rate.peak'"),
        ("training.optimizer.learning_rate=fast", "config field 'training.optimizer.learning_rate' is 'fast'"),
        ("learning_rate=1", "unknown config field 'learning_rate'"),
        ("factors=3", "config field 'factors' is 3"),
    ],
)
def test_a_wrong_override_is_an_error(config_path, override, message):
    with pytest.raises(UserError) as error:
        load_config(config_path, [override])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "does not define the function get_config"),
        ("def get_config(:\n", "fails: SyntaxError"),
        ("import nosuchmodule\n", "fails: ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("import os\nos.nothing\n", "fails: AttributeError: module 'os' has no attribute 'nothing'"),
        ("def get_config(arg=''):\n    return 1 / 0\n", "fails: ZeroDivisionError: division by zero"),
        ("def get_config(arg=''):\n    raise ValueError('one\\ntwo')\n", "fails: ValueError: one"),
        ("def get_config(arg=''):\n    return 3\n", "a config must be a ConfigDict, a dict or a Study, not int"),
        ("def get_config(arg=''):\n    return {'factors': None}\n", "config field 'factors' is None; allowed:"),
    ],
    ids=["no_function", "syntax", "import", "attribute", "raises", "two_lines", "number", "no_factors"],
)
def test_a_broken_config_file_is_one_sentence(tmp_path, text, message):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_config(str(path), ["title=x"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_config_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"the config file '.*nowhere\.py' does not exist"):
        load_config(str(tmp_path / "nowhere.py:arg"))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_of_the_project_loads(name, root, real_data):
    path = root / "configs" / f"{name}.py"
    for spec in SPECS_OF.get(name, ("{path}:{data}", "{path}:small,{data}", "{path}:full")):
        loaded = load_config(spec.format(path=path, data=real_data))
        assert loaded.docstring and loaded.study.title and loaded.study.trials()
        assert from_dict(Study, to_dict(loaded.study)) == loaded.study


WITHOUT_FULL = ("{path}:{data}", "{path}:small,{data}")
SPECS_OF = {"quickstart": ("{path}",)} | dict.fromkeys(
    ("objects_to_scenes", "what_changes", "depth_and_images", "units", "representation"), WITHOUT_FULL
)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_of_the_project_can_be_planned(name, root, real_data):
    from jaxft.analysis.wordnet import load_wordnet
    from jaxft.study.plan import make_plan

    if name in ("granularity", "source_similarity"):
        try:
            load_wordnet()
        except UserError as error:
            pytest.skip(f"needs WordNet: {error}")
    path = root / "configs" / f"{name}.py"
    study = load_config(str(path) if name == "quickstart" else f"{path}:{real_data}").study
    plan = make_plan(study)
    assert len(plan.trials) == len(study.trials())
    assert not plan.warnings
    if study.select_over:
        assert all(len(trial.split.val) for trial in plan.trials)


def test_a_missing_data_file_of_a_config_is_named(root, tmp_path):
    with pytest.raises(
        UserError, match=r"the data file weights/resnetsmall8.cifar100.safetensors is not in .*; give the folder"
    ):
        load_config(f"{root / 'configs' / 'target_images.py'}:{tmp_path}")


def test_paths_may_be_path_objects_and_begin_with_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    fields = {
        "source": {"weights": Path("w.pth")},
        "target": {"data": "~/images", "union": ["~/more", "digits"], "manifest": None},
        "factors": [{"target.data": [Path("a"), "~/b"]}],
    }
    study = from_dict(Study, fields)
    assert study.source.weights == "w.pth"
    assert study.target.data == "/home/me/images" and study.target.union == ("/home/me/more", "digits")
    assert [trial.target.data for trial in study.trials()][:: len(study.seeds)] == ["a", "/home/me/b"]
    assert json.loads(json.dumps(to_dict(study)))["factors"] == [{"target.data": ["a", "~/b"]}]


def test_a_config_can_be_pickled_and_copied():
    training = {"regularization.l2_sp.strength": 0.1, "augmentation.flip.enabled": True}
    study = from_dict(Study, {"source.weights": "w.pth", "training": training})
    assert pickle.loads(pickle.dumps(study)) == copy.deepcopy(study) == study != Study()
