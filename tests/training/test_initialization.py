"""Initial weights and trainable leaves: transfer depth, initialization, presets, heads, checkpoints."""

import re
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxft
from jaxft.config import Study, Training, from_dict
from jaxft.core.errors import UserError
from jaxft.core.paths import flatten
from jaxft.models import create_model
from jaxft.models.growth import NEW_UNITS
from jaxft.models.initialization import init_variables
from jaxft.models.structure import expected_shapes
from jaxft.store.records import Store
from jaxft.study.plan import make_plan
from jaxft.training.head_initialization import imprint
from jaxft.training.initialization import draw_mean_var, initial_variables
from jaxft.training.layer_selection import blocks_with_parameters, has_random_backbone, transferred_blocks, tuning_rules
from jaxft.weights import load

SIZE_PX = 8
KEY = jax.random.key(0)
TINY = {
    "seeds": 1,
    "source": {
        "model": "toy",
        "images": {"data": "digits", "classes": ["0", "1"], "train_per_class": 20},
        "training": {
            "schedule.epochs": 3.0,
            "batches.size": 20,
            "optimizer.learning_rate": 0.05,
            "selection.weights": "last",
            "optimizer.ema_decay": 0.5,
        },
    },
    "target": {"data": "digits", "classes": ["2", "3", "4"], "train_per_class": 6, "val_per_class": 4},
    "training": {"schedule.epochs": 2.0, "batches.size": 9, "optimizer.learning_rate": 0.05},
}


def tiny(**changes):
    return from_dict(Study, TINY | changes)


def planned(**training):
    return make_plan(tiny(training=TINY["training"] | training)).trials[0]


def names_of(model, size_px=SIZE_PX):
    shapes = expected_shapes(model, size_px)
    return [name.partition("/")[2] for name in shapes if name.startswith("params/")]


@pytest.fixture(scope="module")
def source():
    """Returns the leaves below the head of a network, as loaded from a weight file."""
    model = create_model("toy", 5)
    flat = flatten(init_variables(model, jax.random.key(7), SIZE_PX))
    rng = np.random.Generator(np.random.PCG64(0))
    return {n: np.asarray(leaf) + rng.normal(0, 0.1, leaf.shape) for n, leaf in flat.items() if "/head/" not in n}


def start(source, **training):
    return initial_variables(create_model("toy", 3), Training.of({**training}), KEY, SIZE_PX, source)


pytestmark = pytest.mark.usefixtures("no_report")


# --- transfer depth ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "blocks"),
    [
        (1, ["stem"]),
        (3, ["stem", "stage1/block1", "stage2/block1"]),
        ("stage1", ["stem", "stage1/block1"]),
        ("stage3/block1", ["stem", "stage1/block1", "stage2/block1", "stage3/block1"]),
        (None, ["stem", "stage1/block1", "stage2/block1", "stage3/block1"]),
    ],
)
def test_transfer_depth_is_a_number_or_a_name_of_blocks(asked, blocks):
    model = create_model("cifar_resnet8", 3)
    assert (
        list(transferred_blocks(Training.of({"initialization.transferred_blocks": asked}), model, names_of(model)))
        == blocks
    )


def test_a_stage_name_transfers_all_its_blocks():
    model = create_model("resnetsmall14", 3)
    copied = transferred_blocks(
        Training.of({"initialization.transferred_blocks": "stage2"}), model, names_of(model, 32)
    )
    assert copied == ("stem", "stage1/block1", "stage1/block2", "stage2/block1", "stage2/block2")


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_only_the_first_blocks_come_from_the_source(source, depth):
    found = start(source, **{"initialization.transferred_blocks": depth})
    scratch = initial_variables(
        create_model("toy", 3), Training.of({"initialization.start": "random"}), KEY, SIZE_PX, None
    )
    model = create_model("toy", 3)
    copied = blocks_with_parameters(Training(), model, names_of(model))[:depth]
    for collection in ("params", "batch_stats"):
        assert found[collection].keys() == scratch[collection].keys()
        for name, leaf in found[collection].items():
            is_copied = name.startswith(tuple(f"{block}/" for block in copied))
            expected = source[f"{collection}/{name}"] if is_copied else scratch[collection][name]
            np.testing.assert_array_equal(leaf, expected)


def test_without_a_depth_all_blocks_are_transferred(source):
    found = start(source)
    fresh = flatten(init_variables(create_model("toy", 3), KEY, SIZE_PX))
    np.testing.assert_allclose(found["params"]["head/kernel"], fresh["params/head/kernel"], rtol=1e-6)
    assert all(np.array_equal(found["params"][n.partition("/")[2]], source[n]) for n in source if n[0] == "p")


def test_rules_freeze_the_transferred_blocks():
    trial = planned(**{"initialization.transferred_blocks": 2, "initialization.transferred": "frozen"})
    assert trial.program.phases[0].prefix == "stage1/block1"
    assert {match.pattern for match in trial.layers.values() if match.value == "frozen"} == {
        "(?:stem|stage1/block1)/.* except head/.*"
    }
    assert not any(name.startswith(("stem", "stage1")) for name in trial.program.phases[0].tracked)


def test_trials_with_frozen_transferred_blocks_form_a_group_but_not_with_random_ones():
    def groups(**training):
        return len(make_plan(tiny(seeds=3, training=TINY["training"] | training)).groups)

    assert groups(**{"initialization.transferred_blocks": 2, "initialization.transferred": "frozen"}) == 1
    assert groups(**{"initialization.transferred_blocks": 2}) == 1  # nothing is frozen
    assert (
        groups(**{"initialization.transferred_blocks": 2, "layers.tune": "bias"}) == 3
    )  # each seed freezes other random kernels
    assert groups(**{"layers.tune": "bias"}) == 1
    assert groups(**{"initialization.start": "mean_var", "layers.tune": "bias"}) == 3
    assert groups(**{"layers.tune": "lora"}) == groups(**{"layers.tune": "lora", "linear_probe.epochs": 1.0}) == 1


@pytest.mark.parametrize(
    "factors",
    [
        {
            "training.initialization.transferred_blocks": [1, 2],
            "training.layers.tune": ["bias"],
        },  # frozen leaves have other initial values
        {"training.layers.tune": ["lora"], "training.layers.lora_rank": [1, 4]},  # shapes differ
        {
            "training.layers.backbone_learning_rate": ["frozen"],
            "training.regularization.l2_sp.strength": [0.0, 0.1],
        },  # the number has no effect
        {"training.initialization.head": ["lecun", "zeros"], "training.layers.rates": [(("head/.*", "frozen"),)]},
    ],
    ids=["transferred blocks", "ranks", "numbers", "frozen heads"],
)
def test_trials_that_cannot_be_stacked_form_separate_groups(factors):
    plan = make_plan(tiny(seeds=1, factors=[factors]))
    assert len(plan.trials) == len(plan.groups) == 2


def test_blocks_of_the_source_are_not_new_units():
    """A grown source is a source like any other: all of it is transferred, frozen and adapted with LoRA."""
    model = create_model("toy+wider4", 3)
    names = names_of(model)
    grown = [name for name in names if re.match(NEW_UNITS, name)]
    assert len(grown) == 3 and not has_random_backbone(Training(), model, names)
    flat = {n: w for n, w in flatten(init_variables(model, jax.random.key(7), SIZE_PX)).items() if "head/" not in n}
    found = initial_variables(model, Training(), KEY, SIZE_PX, flat)["params"]
    assert all(np.array_equal(found[name], flat[f"params/{name}"]) for name in names if not name.startswith("head/"))
    (rule,) = tuning_rules(Training.of({"initialization.transferred": "frozen"}), model, names)
    assert all(re.fullmatch(rule.pattern, name) for name in grown)


def test_lora_factors_train_together_or_not_at_all():
    with pytest.raises(UserError, match=r"a rule freezes 'stem/conv/lora_b' but no rule freezes 'stem/conv/lora_a'"):
        planned(**{"layers.tune": "lora", "layers.rates": [["stem/.*/lora_b", "frozen"]]})


def test_alpha_does_not_change_the_program():
    plan = make_plan(tiny(factors=[{"training.layers.tune": ["lora"], "training.layers.lora_alpha": [1.0, 8.0]}]))
    assert len(plan.trials) == 2 and plan.num_programs == 2  # one program is for the source


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"initialization.transferred_blocks": 0},
            "'training.initialization.transferred_blocks' is 0; allowed: an integer at least 1",
        ),
        (
            {"initialization.transferred_blocks": 9},
            "'training.initialization.transferred_blocks' is 9, but toy has only 3 blocks with parameters",
        ),
        ({"initialization.transferred_blocks": "stage4"}, "'training.initialization.transferred_blocks' is 'stage4'"),
        (
            {"initialization.transferred_blocks": 2, "initialization.start": "random"},
            "'training.initialization.start' is 'random', so no block is pretrained",
        ),
        (
            {"initialization.transferred": "frozen", "initialization.start": "random"},
            "with start 'random' no block is pretrained; give 'training.initialization.transferred_blocks'",
        ),
        (
            {"initialization.transferred": "frozen", "initialization.start": "mean_var"},
            "with start 'mean_var' no block is pretrained",
        ),
        (
            {"layers.tune": "last_blocks", "layers.tuned_blocks": 5},
            "'training.layers.tuned_blocks' is 5, but toy has only 3 blocks",
        ),
        ({"layers.tune": "last_blocks", "layers.tuned_blocks": "stage9"}, "'training.layers.tuned_blocks' is 'stage9'"),
        ({"layers.tune": "head", "layers.rates": [("stem/.*", 0.1)]}, "layer rate 'stem/.*' has no effect"),
    ],
)
def test_contradictory_fields_raise_one_sentence(fields, message):
    with pytest.raises(UserError) as error:
        planned(**fields)
    assert message in str(error.value)


def test_source_epoch_is_at_most_the_last_epoch():
    message = "'source.epoch' is 4, but the source is trained for only 3 epochs; lower it, or raise 'source.training."
    with pytest.raises(UserError, match=message):
        make_plan(tiny(source=TINY["source"] | {"epoch": 4}))
    with pytest.raises(UserError, match=r"'source.epoch' needs a source that the study trains"):
        from_dict(Study, {"source": {"weights": "some.safetensors", "epoch": 1}})
    with pytest.raises(UserError, match=r"'source.epoch' needs batch-norm statistics after each epoch"):
        recalibrated = TINY["source"]["training"] | {"batch_norm.statistics": "recalibrated"}
        tiny(source=TINY["source"] | {"epoch": 1, "training": recalibrated})


def test_fields_that_need_batch_norms_or_a_dense_head_are_errors_without_them():
    fields = TINY | {"source": {"model": "squeezenet1_1"}, "target": TINY["target"] | {"size_px": 64}}
    for training, message in (
        (
            {"layers.tune": "batch_norm"},
            "'training.layers.tune' is 'batch_norm', but squeezenet1_1 has no batch norms.",
        ),
        (
            {"initialization.head": "zeros"},
            "the head of squeezenet1_1 is a convolution with a ReLU, not a dense layer; use 'lecun'.",
        ),
        ({"initialization.grow": "wider"}, "squeezenet1_1 cannot be grown: it has no pooling layer"),
    ):
        with pytest.raises(UserError) as error:
            make_plan(
                from_dict(
                    Study, fields | {"training": TINY["training"] | {"initialization.start": "random"} | training}
                )
            )
        assert message in str(error.value)


# --- initialization ---------------------------------------------------------------------------------------------


def test_mean_var_values_have_the_mean_and_deviation_of_the_leaf():
    leaf = np.random.Generator(np.random.PCG64(1)).gamma(2.0, 3.0, (3, 3, 40, 50))
    drawn = np.asarray(draw_mean_var(leaf, KEY), np.float64)
    error = leaf.std() / np.sqrt(leaf.size)  # standard error of the mean
    assert abs(drawn.mean() - leaf.mean()) < 4 * error
    assert abs(drawn.std() / leaf.std() - 1) < 4 / np.sqrt(2 * leaf.size)
    skew = ((drawn - drawn.mean()) ** 3).mean() / drawn.std() ** 3
    assert abs(skew) < 0.1  # 0 for the normal distribution; 1.4 for the gamma distribution of the source


def test_mean_var_draws_each_leaf_separately(source):
    found = start(source, **{"initialization.start": "mean_var"})
    for name, leaf in found["params"].items():
        if not name.startswith("head/"):
            assert not np.array_equal(leaf, source[f"params/{name}"])
    assert all(np.all(leaf == float(name.endswith("var"))) for name, leaf in found["batch_stats"].items())
    model, training = create_model("toy", 3), Training.of({"initialization.start": "mean_var"})
    again, other = (initial_variables(model, training, key, SIZE_PX, source) for key in (KEY, jax.random.key(1)))
    name = "stage1/block1/conv1/kernel"
    assert np.array_equal(found["params"][name], again["params"][name])
    assert not np.array_equal(found["params"][name], other["params"][name])


def test_stream_init_is_listed_if_it_matters():
    assert (
        "init" in planned().streams_used
        and "init" in planned(**{"initialization.head": "zeros", "initialization.transferred_blocks": 2}).streams_used
    )
    assert "init" not in planned(**{"initialization.head": "zeros"}).streams_used


def test_neutral_values_do_not_change_the_identity():
    """Trials without these factors keep their digest."""
    pretrained, random = make_plan(tiny(factors=[{"training.initialization.start": ["pretrained", "random"]}])).trials
    written = {f"training.{name}": value for name, value in TINY["training"].items()}
    fields = [
        {n: v for n, v in trial.identity["fields"].items() if n.startswith("training.")}
        for trial in (pretrained, random)
    ]
    assert fields == [written, written | {"training.initialization.start": "random"}]
    contents = [trial.identity["content"] for trial in (pretrained, random)]
    assert contents[0] == contents[1] | {"weights": pretrained.source.trained.digest}
    assert contents[1].keys() == {"images", "split", "preprocessing"}
    seeds = [name for name in random.identity["fields"] if name.startswith("streams.")]
    assert seeds == ["streams.split", "streams.init", "streams.order", "streams.augment"]


# --- the head ---------------------------------------------------------------------------------------------------


def test_class_means_by_hand():
    features = np.array([[3.0, 4.0], [0.0, 2.0], [5.0, 0.0]])
    kernel = imprint(features, np.array([0, 0, 1]), num_classes=3)
    np.testing.assert_allclose(kernel[:, 0], np.array([0.6, 1.8]) / np.hypot(0.6, 1.8), rtol=1e-6)
    np.testing.assert_allclose(kernel[:, 1], [1.0, 0.0])
    np.testing.assert_array_equal(kernel[:, 2], 0.0)  # the class has no images


def test_the_largest_logit_belongs_to_the_nearest_class_direction():
    rng = np.random.Generator(np.random.PCG64(2))
    features, labels = rng.gamma(1.0, 1.0, (60, 7)), np.arange(60) % 4
    kernel = imprint(features, labels, 4)
    cosines = features @ kernel / np.linalg.norm(features, axis=1, keepdims=True) / np.linalg.norm(kernel, axis=0)
    assert np.array_equal((features @ kernel).argmax(1), cosines.argmax(1))


# --- presets ----------------------------------------------------------------------------------------------------


def test_presets_train_the_declared_leaves():
    every = set(planned().program.phases[0].trainable)
    head = {name for name in every if name.startswith("head/")}

    def below_head(**training):
        found = set(planned(**training).program.phases[0].trainable)
        assert head <= found <= every
        return found - head

    assert below_head(**{"layers.tune": "head"}) == set()
    assert below_head(**{"layers.tune": "bias"}) == {name for name in every - head if name.endswith("/bias")}
    assert below_head(**{"layers.tune": "batch_norm"}) == {name for name in every - head if "/bn" in name}
    assert below_head(**{"layers.tune": "last_blocks"}) == {name for name in every if name.startswith("stage2/")}
    upper = {name for name in every if name.startswith(("stage1/", "stage2/"))}
    assert (
        below_head(**{"layers.tune": "last_blocks", "layers.tuned_blocks": 2})
        == upper
        == below_head(**{"layers.tune": "last_blocks", "layers.tuned_blocks": "stage1"})
    )


# --- a study ----------------------------------------------------------------------------------------------------


ARMS = {
    "frozen": {"training.initialization.transferred_blocks": 2, "training.initialization.transferred": "frozen"},
    "bias": {"training.layers.tune": "bias", "training.initialization.head": "class_means"},
    "lora": {"training.layers.tune": "lora", "training.layers.lora_rank": 2, "training.linear_probe.epochs": 1.0},
    "zeros": {"training.initialization.head": "zeros", "training.layers.tune": "head"},
    "wider": {"training.initialization.grow": "wider", "training.initialization.grown_features": 3},
    "early": {"source.epoch": 1, "training.layers.tune": "head"},
    "late": {"source.epoch": 3, "training.layers.tune": "head"},
}


@pytest.fixture(scope="module")
def ran(made_once):
    """Returns (store, plan, trials by arm) of a study with an arm of each kind, run once and only read."""
    factors = [{name: [level] for name, level in arm.items()} for arm in ARMS.values()]
    study = tiny(factors=factors)
    workdir = made_once("starts", lambda folder: jaxft.run_study(study, folder / "work", quiet=True)) / "work"
    assert (jaxft.load_results(workdir)["status"] == "done").all()
    plan = make_plan(study)
    return Store.open(workdir), plan, dict(zip(ARMS, plan.trials))


def weights_of(store, trial):
    return {
        collection: flatten(leaves)
        for collection, leaves in load(store.weights_path(trial.digest), trial.model)[0].items()
    }


def source_of(store, trial):
    path = store.weights_path(trial.source.digest, "sources")
    variables, _ = load(path, create_model("toy", 2))
    return {collection: flatten(leaves) for collection, leaves in variables.items()}


@pytest.mark.slow
def test_frozen_transferred_blocks_are_bit_identical_after_training(ran):
    store, _, trials = ran
    final, source = weights_of(store, trials["frozen"]), source_of(store, trials["frozen"])
    for collection, leaves in final.items():
        for name, leaf in leaves.items():
            if name.startswith(("stem/", "stage1/")):
                np.testing.assert_array_equal(leaf, source[collection][name])
            elif name.endswith("kernel") and not name.startswith("head/"):
                assert np.corrcoef(np.ravel(leaf), np.ravel(source[collection][name]))[0, 1] < 0.2


@pytest.mark.slow
def test_tune_bias_changes_only_biases(ran):
    store, _, trials = ran
    final, source = weights_of(store, trials["bias"])["params"], source_of(store, trials["bias"])["params"]
    for name, leaf in final.items():
        if not name.startswith("head/"):
            assert np.array_equal(leaf, source[name]) == (not name.endswith("/bias"))


@pytest.mark.slow
def test_lora_is_merged_into_kernels_with_low_rank_updates(ran):
    store, _, trials = ran
    trial = trials["lora"]
    final, source = weights_of(store, trial)["params"], source_of(store, trial)["params"]
    assert not any("lora" in name for name in load_file(store.weights_path(trial.digest)))
    for name, leaf in final.items():
        if name.startswith("head/"):
            continue
        change = np.asarray(leaf, np.float64) - np.asarray(source[name], np.float64)
        if name.endswith("/kernel"):
            sizes = np.linalg.svd(change.reshape(-1, change.shape[-1]), compute_uv=False)
            assert sizes[0] > 0 and sizes[2] < 1e-3 * sizes[0]  # rank 2 up to rounding
        else:
            assert not change.any()
    record = store.read("trials", trial.digest)
    assert record["changes"]["stage1/block1/conv1"]["l2"] > 0 and record["changes"]["stage1/block1/bn1"]["l2"] == 0


@pytest.mark.nightly
@pytest.mark.slow
def test_lora_agrees_between_vmap_and_sequential_execution(tmp_path):
    found = {}
    for executor in ("sequential", "vmap"):
        study = tiny(
            seeds=2,
            training=TINY["training"] | {"layers.tune": "lora", "schedule.epochs": 1.0},
            execution={"executor": executor},
        )
        jaxft.run_study(study, tmp_path / executor, quiet=True)
        store = Store.open(tmp_path / executor)
        found[executor] = [weights_of(store, trial)["params"] for trial in make_plan(study).trials]
    for one, other in zip(found["sequential"], found["vmap"]):
        for name, leaf in one.items():
            np.testing.assert_allclose(leaf, other[name], atol=1e-4)
    changed = "stage1/block1/conv1/kernel"
    assert not np.array_equal(found["vmap"][0][changed], found["vmap"][1][changed])


@pytest.mark.slow
def test_snapshots_are_saved_and_the_last_equals_the_final_weights(ran):
    store, plan, trials = ran
    assert plan.snapshots(plan.sources[0]) == ((1, trials["early"].source.digest), (3, trials["late"].source.digest))
    early, late = source_of(store, trials["early"]), source_of(store, trials["late"])
    end = source_of(store, trials["bias"])  # it starts from the selected weights, which are the last here
    for name, leaf in end["params"].items():
        np.testing.assert_array_equal(late["params"][name], leaf)
    assert not np.array_equal(early["params"]["stem/conv/kernel"], late["params"]["stem/conv/kernel"])
    assert store.read("trials", trials["early"].digest)["source"] == trials["early"].source.digest


@pytest.mark.slow
def test_another_snapshot_trains_the_source_again(ran, tmp_path):
    _, plan, trials = ran
    store = Store.open(shutil.copytree(ran[0].workdir, tmp_path / "work"))
    before = source_of(store, trials["early"])["params"]
    study = tiny(factors=[{"source.epoch": [2], "training.layers.tune": ["head"]}])
    table = jaxft.run_study(study, store.workdir, quiet=True)
    assert (table["status"] == "done").all()
    grown = make_plan(study)
    assert grown.sources[0].digest == plan.sources[0].digest
    assert store.weights_path(grown.trials[0].source.digest, "sources").is_file()
    for name, leaf in source_of(store, trials["early"])["params"].items():
        np.testing.assert_array_equal(leaf, before[name])


@pytest.mark.slow
def test_new_units_train_and_changes_of_old_units_are_measured(ran):
    store, _, trials = ran
    record = store.read("trials", trials["wider"].digest)
    assert record["changes"]["stage2_wider/conv"]["l2"] > 0 and record["changes"]["stage2/block1/conv1"]["l2"] > 0
    assert {"stage2_wider/conv", "stage2_wider"} <= set(record["changes"])


@pytest.mark.slow
def test_a_head_of_class_means_starts_with_higher_accuracy(ran):
    from jaxft.features.cache import FeatureCache
    from jaxft.study.services import Services
    from jaxft.study.work import Work

    store, plan, trials = ran
    work = Work(plan, store, Services(FeatureCache(1e9)))
    trial = trials["bias"]
    lane = work.loader.lane(trial)
    variables = {
        "params": jaxft.core.paths.unflatten(lane.params),
        "batch_stats": jaxft.core.paths.unflatten(lane.batch_stats),
    }
    images = trial.program.phases[0].preprocessing.apply(jax.numpy.asarray(trial.images.images[lane.train]))
    features = np.asarray(trial.model.apply(variables, images, stop="pool"))
    np.testing.assert_allclose(lane.params["head/kernel"], imprint(features, lane.labels[lane.train], 3), atol=1e-5)
    accuracy = (np.asarray(features @ lane.params["head/kernel"]).argmax(1) == lane.labels[lane.train]).mean()
    assert accuracy > 0.6 and not np.any(lane.params["head/bias"])
    assert not any(
        np.any(leaf) for name, leaf in work.loader.lane(trials["zeros"]).params.items() if name.startswith("head/")
    )
