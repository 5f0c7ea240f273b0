"""From a config to a table: planning, running missing trials, and resuming after kills."""

import collections
import concurrent.futures
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import counted_run
from safetensors.numpy import load_file

import jaxft
from jaxft import UserError
from jaxft.commands.study import parse_shard
from jaxft.config import Study, from_dict, load_config
from jaxft.core import events
from jaxft.core.text import duration
from jaxft.models import create_model
from jaxft.models.cost import block_costs
from jaxft.recipes.run_record import git_state
from jaxft.store.records import Store
from jaxft.study import chooser as chooser_module
from jaxft.study.chooser import Chooser, num_macs
from jaxft.study.chunk import loop
from jaxft.study.examples import example_lane
from jaxft.study.executors import DataParallel, Sequential, Vmap
from jaxft.study.jobs import assign_chunks, chunk_jobs, ordered_for_worker
from jaxft.study.plan import make_plan
from jaxft.study.workers import Workers
from jaxft.tracking.console import Progress
from jaxft.tracking.json_lines import read_events
from jaxft.weights import load

TINY = {
    "seeds": 2,
    "source": {
        "model": "toy",
        "images": {"data": "digits", "classes": ["0", "1"], "train_per_class": 20, "val_per_class": 5},
        "training": {"schedule.epochs": 2.0, "batches.size": 20, "optimizer.learning_rate": 0.05},
    },
    "target": {"data": "digits", "classes": ["2", "3", "4"], "train_per_class": 6, "val_per_class": 4},
    "training": {"schedule.epochs": 2.0, "batches.size": 9, "optimizer.learning_rate": 0.05},
    "factors": [
        {"training.layers.backbone_learning_rate": ["frozen", 0.01]},
        {"training.initialization.start": ["random"], "training.layers.backbone_learning_rate": [0.01]},
    ],
}


def tiny(**changes):
    return from_dict(Study, TINY | changes)


def without_times(table):
    return table.drop(columns=["seconds"])


pytestmark = pytest.mark.usefixtures("no_report")  # only the shared study of `ran` has a report


@pytest.fixture(scope="module")
def ran(made_once):
    """Returns the work directory and the results of the tiny study, which runs once; tests only read it."""
    workdir = made_once("study", lambda folder: jaxft.run_study(tiny(), folder / "tiny", quiet=True)) / "tiny"
    return workdir, jaxft.load_results(workdir)


@pytest.fixture
def copied(ran, tmp_path):
    """Returns a copy of the work directory of `ran`, which a test may change, and the results.

    Studies of the same source do not train it again there.
    """
    workdir, results = ran
    return shutil.copytree(workdir, tmp_path / "copied"), results


# --- planning ---


def test_the_quickstart_has_45_trials(root):
    plan = make_plan(load_config(str(root / "configs" / "quickstart.py")).study)
    assert len(plan.trials) == 45 and len(plan.settings) == 9 and len(plan.sources) == 1
    # Two programs for trials (training only the head, training all layers), and one for the source.
    assert len(plan.groups) == 2 and plan.num_programs == 3
    for trial in plan.trials:
        split = trial.split
        labels = trial.images.labels
        assert np.bincount(labels[split.train]).tolist() == [10] * 5
        assert np.bincount(labels[split.val]).tolist() == [10] * 5
        assert not set(split.train) & set(split.val) and not set(split.test) & {*split.train, *split.val}
        # scikit-learn has 182, 181, 179, 174 and 180 scans of 5 to 9.
        assert len(split.test) == 182 + 181 + 179 + 174 + 180 - 100


def test_trials_of_one_seed_share_their_split():
    plan = make_plan(tiny())
    for seed in (0, 1):
        assert len({t.split.digest for t in plan.trials if t.trial.seed == seed}) == 1
    assert len({t.split.digest for t in plan.trials}) == 2


def test_a_pinned_stream_does_not_vary():
    plan = make_plan(tiny(streams={"split": 7}))
    assert len({t.split.digest for t in plan.trials}) == 1
    varied = plan.record(jaxft.config.ConfigFile(plan.study))["varied"]
    assert varied == ["init", "order"]  # split and source are pinned, and there is no augmentation


def test_a_random_start_does_not_depend_on_how_the_source_is_trained():
    one = make_plan(tiny())
    longer = TINY["source"] | {
        "training": {"schedule.epochs": 3.0, "batches.size": 20, "optimizer.learning_rate": 0.05}
    }
    two = make_plan(tiny(source=longer))
    for a, b in zip(one.trials, two.trials):
        assert (a.digest == b.digest) == (a.trial.training.initialization.start == "random")


@pytest.mark.slow
def test_weights_are_identified_by_content_not_by_path(real_data, tmp_path):
    fields = {
        "seeds": 1,
        "factors": [],
        "target": TINY["target"] | {"size_px": 32},
        "source": {"model": "resnetsmall8", "weights": str(real_data / "weights" / "resnetsmall8.cifar10.safetensors")},
    }
    here = make_plan(tiny(**fields))
    copy = tmp_path / "renamed.safetensors"
    copy.write_bytes((real_data / "weights" / "resnetsmall8.cifar10.safetensors").read_bytes())
    moved = make_plan(tiny(**fields | {"source": {"model": "resnetsmall8", "weights": str(copy)}}))
    assert here.trials[0].digest == moved.trials[0].digest
    # The preprocessing comes from the manifest of the published file, not from the architecture.
    assert moved.trials[0].source.preprocessing.mean == (0.4914, 0.4822, 0.4465)


def test_a_crop_determines_the_network_input():
    fields = {"factors": [], "seeds": 1, "target": TINY["target"] | {"size_px": 12}}
    plan = make_plan(
        tiny(**fields, training=TINY["training"] | {"augmentation.crop.size_px": 8, "selection.test_crops": "ten"})
    )
    (trial,) = plan.trials
    assert trial.size_px == 8 and trial.images.images.shape[1:3] == (12, 12)
    assert trial.program.phases[0].preprocessing.size_px == 8 and trial.program.test_crops == "ten"
    assert "augment" in trial.streams_used and trial.resize_px == 12


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"augmentation.crop.size_px": 13},
            "'training.augmentation.crop.size_px' is 13, but the images are 12 px; set 'target.size_px' to 13 or more.",
        ),
        (
            {"augmentation.crop.size_px": 12, "selection.test_crops": "ten"},
            "'training.selection.test_crops' is 'ten', but the images are not larger than "
            "'training.augmentation.crop.size_px', 12 px; raise 'target.size_px', for example to 14.",
        ),
    ],
)
def test_a_crop_must_fit(fields, message):
    fields = {"training": TINY["training"] | fields, "target": TINY["target"] | {"size_px": 12}}
    with pytest.raises(jaxft.UserError) as error:
        make_plan(tiny(factors=[], **fields))
    assert message in str(error.value)


def test_class_weights_and_balanced_batches_reach_a_trial():
    fields = TINY["training"] | {
        "initialization.start": "random",
        "loss.class_weights": "inverse",
        "batches.sampling": "balanced",
    }
    (trial,) = make_plan(tiny(seeds=1, factors=[], training=fields)).trials
    lane = example_lane(trial)
    assert lane.balanced and lane.hparams.class_weights.tolist() == [1, 1, 1]  # six images of each
    assert trial.program.phases[0].targets.weighted


@pytest.mark.parametrize("more", [0, 2])
def test_the_plan_records_uneven_test_classes(more, tmp_path):
    """Training and validation use three images of each class. Of 10 and 10 images, 7 and 7 remain; of 10 and 12, 7 and
    9."""
    labels = np.repeat([0, 1], (10, 10 + more))
    np.savez(tmp_path / "some.npz", images=np.zeros((len(labels), 8, 8, 3), np.uint8), labels=labels)
    target = {"data": str(tmp_path / "some.npz"), "train_per_class": 2, "val_per_class": 1}
    plan = make_plan(
        tiny(seeds=1, target=target, factors=[], training={"initialization.start": "random", "batches.size": 2})
    )
    assert plan.record(jaxft.config.ConfigFile(plan.study))["uneven"] is (more > 0)


def test_execution_fields_do_not_affect_identity():
    one, two = make_plan(tiny()), make_plan(tiny(execution={"executor": "vmap", "keep_weights": "none"}))
    assert [t.digest for t in one.trials] == [t.digest for t in two.trials]


# --- results ---


def test_results_have_one_row_per_trial(ran):
    _, results = ran
    assert list(results.columns) == [
        "trial",
        "status",
        "setting",
        "training.layers.backbone_learning_rate",
        "training.initialization.start",
        "seed",
        "val_accuracy",
        "test_accuracy",
        "val_mean_per_class",
        "test_mean_per_class",
        "selected_epoch",
        "relative_change",
        "seconds",
        "executor",
        "width",
    ]
    assert results["trial"].is_unique and len(results) == 6
    assert (results["status"] == "done").all()
    # Heads on cached features train together.
    assert results["executor"].tolist() == ["vmap"] * 2 + ["sequential"] * 4
    assert results["test_accuracy"].between(0, 1).all() and results["val_accuracy"].between(0, 1).all()
    assert results["training.layers.backbone_learning_rate"].tolist() == ["frozen"] * 2 + [0.01] * 4
    assert results["training.initialization.start"].tolist() == ["pretrained"] * 4 + ["random"] * 2
    assert results["seed"].tolist() == [0, 1] * 3


def test_a_frozen_backbone_is_bit_identical(ran):
    workdir, results = ran
    frozen = results[results["training.layers.backbone_learning_rate"] == "frozen"]
    assert (frozen["relative_change"] == 0).all()
    assert (results.loc[~results.index.isin(frozen.index), "relative_change"] > 0).all()
    source = load_file(next((workdir / "sources").glob("[!.]*.safetensors")))
    for digest in frozen["trial"]:
        final = load_file(workdir / "weights" / f"{digest}.safetensors")
        for name, values in source.items():
            if not name.startswith("linear"):
                assert final[name].tobytes() == values.tobytes(), name


def test_a_random_start_differs_from_the_start_of_the_source():
    """Seed 0 of the source and seed 0 of a trial initialize different networks."""
    plan = make_plan(tiny())
    random_start = next(t for t in plan.trials if not t.starts_from_source)
    seeds = {planned.trial.stream_seed("init") for planned in (plan.sources[0], random_start)}
    assert random_start.trial.seed == 0 and len(seeds) == 2


def test_kept_weights_have_the_recorded_accuracy(ran):
    """The accuracy of the stored network on the stored test rows equals the accuracy of the table."""
    workdir, results = ran
    plan = make_plan(tiny())
    store = Store.open(workdir)
    model = create_model("toy", num_classes=3)
    apply = jax.jit(model.apply)
    for trial in plan.trials:
        variables, manifest = load(store.weights_path(trial.digest), model)
        assert manifest.class_names == ("2", "3", "4")
        rows = store.arrays("trials", trial.digest)["test_rows"]
        logits = apply(variables, manifest.preprocessing.apply(np.asarray(trial.images.images[rows])))
        accuracy = np.mean(np.asarray(logits).argmax(1) == trial.images.labels[rows])
        recorded = results.loc[results["trial"] == trial.digest, "test_accuracy"].item()
        assert accuracy == pytest.approx(recorded, abs=1.5 / len(rows))


def test_mean_per_class_matches_the_stored_predictions(ran):
    workdir, results = ran
    store, labels = Store.open(workdir), make_plan(tiny()).trials[0].images.labels
    for digest, value in zip(results["trial"], results["test_mean_per_class"]):
        arrays = store.arrays("trials", digest)
        truth = labels[arrays["test_rows"]]
        by_class = [(arrays["test_predictions"] == truth)[truth == label].mean() for label in range(3)]
        assert value == pytest.approx(np.mean(by_class))
    # With four validation images of each class, both means are equal.
    np.testing.assert_allclose(results["val_mean_per_class"], results["val_accuracy"])


def test_parameter_changes_match_the_stored_weights(ran):
    workdir, results = ran
    store = Store.open(workdir)
    source = load_file(next((workdir / "sources").glob("[!.]*.safetensors")))
    tuned = results[
        (results["training.initialization.start"] == "pretrained")
        & (results["training.layers.backbone_learning_rate"] == 0.01)
    ]
    digest = tuned["trial"].iloc[0]
    final = load_file(store.weights_path(digest))
    w0, w = (tensors["layer2.0.conv1.weight"].astype(np.float64) for tensors in (source, final))
    changes = store.changes().set_index(["trial", "layer"]).loc[(digest, "stage2/block1/conv1")]
    assert changes["l2"] == pytest.approx(np.linalg.norm(w - w0), rel=1e-5)
    assert changes["relative_l2"] == pytest.approx(np.linalg.norm(w - w0) / np.linalg.norm(w0), rel=1e-5)
    arrays = store.arrays("trials", digest)
    filters = np.linalg.norm((w - w0).reshape(len(w), -1), axis=1)
    np.testing.assert_allclose(arrays["filter/l2/stage2/block1/conv1/kernel"], filters, rtol=1e-5)
    backbone = [n for n in source if not n.startswith("linear") and not n.endswith(("running_mean", "running_var"))]
    moved = np.sqrt(sum(np.square(final[n].astype(np.float64) - source[n]).sum() for n in backbone))
    start = np.sqrt(sum(np.square(source[n].astype(np.float64)).sum() for n in backbone))
    assert tuned["relative_change"].iloc[0] == pytest.approx(moved / start, rel=1e-6)


def test_layers_are_in_the_order_of_the_network(ran):
    workdir, _ = ran
    layers = Store.open(workdir).plan()["layers"]
    assert layers[:4] == ["stem/conv", "stem/bn", "stage1/block1/conv1", "stage1/block1/bn1"]
    assert layers[-2:] == ["stage2/block1/bn2", "head"]


def test_distances_between_trials_are_stored(ran):
    workdir, results = ran
    pairs = Store.open(workdir).pairwise()
    assert pairs["trials"] == results["trial"].tolist() and pairs["distances"].shape[1:] == (6, 6)
    one, two = (load_file(workdir / "weights" / f"{digest}.safetensors") for digest in pairs["trials"][2:4])
    layer = pairs["layers"].index("stage2/block1/conv2")
    expected = np.linalg.norm(one["layer2.0.conv2.weight"] - two["layer2.0.conv2.weight"])
    assert pairs["distances"][layer, 2, 3] == pytest.approx(expected, rel=1e-5)


def test_tables_and_report_are_written(ran):
    workdir, results = ran
    csv, parquet = pd.read_csv(workdir / "results.csv"), pd.read_parquet(workdir / "results.parquet")
    assert csv["test_accuracy"].tolist() == results["test_accuracy"].tolist()
    assert parquet["trial"].tolist() == results["trial"].tolist()
    page = (workdir / "report.html").read_text()
    assert all(digest in page for digest in results["trial"])
    run = Store.open(workdir).runs()[-1]
    assert run["versions"]["jax"] and run["device"] and run["seconds"] > 0


def test_the_log_of_events_has_every_epoch_and_trial(ran):
    workdir, results = ran
    logged = [event for _, event in read_events(workdir / "events.jsonl")]
    assert isinstance(logged[0], events.StudyPlanned) and isinstance(logged[-1], events.StudyFinished)
    finished = {event.trial: event for event in logged if isinstance(event, events.TrialFinished)}
    assert list(finished) == results["trial"].tolist()
    store = Store.open(workdir)
    for digest, accuracy in zip(results["trial"], results["test_accuracy"]):
        assert finished[digest].metrics["test_accuracy"] == accuracy
        curve = store.arrays("trials", digest)["val_loss"]
        of_trial = [e for e in logged if isinstance(e, events.EpochEnded) and digest in e.trials]
        assert [event.epoch for event in of_trial] == [1, 2]
        losses = [event.metrics["val_loss"][event.trials.index(digest)] for event in of_trial]
        np.testing.assert_allclose(losses, curve, rtol=1e-5)
    (started,) = [event for event in logged if isinstance(event, events.StudyStarted)]
    assert started == events.StudyStarted(total_epochs=2 * 6 + 2, total_trials=6, trials_done=0)
    assert sum(len(event.trials) for event in logged if isinstance(event, events.EpochEnded)) == 2 * 6 + 2


# --- doing only what is missing ---


def records(workdir):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in workdir.glob("trials/[!.]*.json")}


def test_a_finished_study_runs_nothing_again(copied):
    workdir, results = copied
    before = records(workdir)
    pd.testing.assert_frame_equal(jaxft.run_study(tiny(), workdir, quiet=True), results)
    assert records(workdir) == before


def test_an_extended_study_runs_only_new_trials(copied):
    workdir, results = copied
    before, sources = records(workdir), list((workdir / "sources").iterdir())
    factors = [dict(TINY["factors"][0]), dict(TINY["factors"][1])]
    factors[0]["training.layers.backbone_learning_rate"] = ["frozen", 0.01, 0.03]
    grown = jaxft.run_study(tiny(seeds=3, factors=factors), workdir, quiet=True)
    assert len(grown) == 4 * 3
    after = records(workdir)
    assert {name: after[name] for name in before} == before and len(after) == 12
    assert list((workdir / "sources").iterdir()) == sources
    # A reduced study shows only its trials, and the others stay on disk.
    again = jaxft.run_study(tiny(), workdir, quiet=True)
    pd.testing.assert_frame_equal(without_times(again), without_times(results))
    assert len(records(workdir)) == 12


@pytest.mark.nightly
@pytest.mark.slow
def test_vmap_fills_short_chunks_and_agrees(ran, tmp_path):
    _, results = ran
    execution = {"executor": "vmap", "width": 4, "keep_weights": "best_seed"}
    together = jaxft.run_study(tiny(execution=execution), tmp_path / "v", quiet=True)
    assert together["trial"].tolist() == results["trial"].tolist()
    assert (together["executor"] == "vmap").all() and together["width"].tolist() == [2, 2, 4, 4, 4, 4]
    np.testing.assert_allclose(together["relative_change"], results["relative_change"], rtol=0.02)
    # One network of each of the three settings is kept: the one with the highest validation accuracy.
    best = together.sort_values(["val_accuracy", "seed"], ascending=[False, True]).groupby("setting").head(1)
    assert {path.stem for path in (tmp_path / "v" / "weights").iterdir()} == set(best["trial"])


@pytest.mark.slow
def test_trials_that_run_together_do_not_share_private_arrays(ran, tmp_path):
    """Trials with different frozen statistics, frozen heads, or validation images do not share them."""
    factors = [
        {"training.batch_norm.statistics": ["frozen"], "training.initialization.start": ["pretrained", "random"]},
        {"training.layers.rates": [[["head/.*", "frozen"]]]},
        {"target.val_per_class": [0, 4]},
    ]
    alone, together = (
        jaxft.run_study(
            tiny(factors=factors, execution={"executor": executor}),
            shutil.copytree(ran[0], tmp_path / executor, ignore=shutil.ignore_patterns("trials")),  # with the source
            quiet=True,
        )
        for executor in ("sequential", "vmap")
    )
    assert set(alone["executor"]) == {"sequential"} and set(together["executor"]) == {"vmap"}
    assert together["status"].tolist() == alone["status"].tolist() == ["done"] * 10
    np.testing.assert_allclose(together["test_accuracy"], alone["test_accuracy"], atol=0.02)
    assert together["selected_epoch"].tolist() == alone["selected_epoch"].tolist()


def test_frozen_variables_must_be_equal(tmp_path):
    from jaxft.features.cache import FeatureCache
    from jaxft.study.chunk.loop import run_chunk
    from jaxft.study.services import Services
    from jaxft.study.work import Work

    frozen = {"initialization.start": "random", "layers.backbone_learning_rate": "frozen"}
    plan = make_plan(tiny(training=TINY["training"] | frozen, factors=[]))
    assert len({group.key for group in plan.groups}) == 2  # a group for each random start
    work = Work(plan, Store.create(tmp_path / "s"), Services(FeatureCache(0)))
    lanes = [work.loader.lane(trial) for trial in plan.trials]
    with pytest.raises(ValueError, match="frozen variables of trials that run together differ"):
        run_chunk(plan.trials[0].program, lanes, plan.trials[0].images.images)


def test_a_diverged_source_fails_only_pretrained_trials(tmp_path):
    source = TINY["source"] | {"training": TINY["source"]["training"] | {"optimizer.learning_rate": 1e38}}
    study = tiny(source=source, seeds=1, factors=[{"training.initialization.start": ["pretrained", "random"]}])
    for _ in range(2):  # the second run does not train the source again
        results = jaxft.run_study(study, tmp_path / "s", quiet=True)
        assert results["status"].tolist() == ["failed", "done"]
    failure = Store.open(tmp_path / "s").read("failures", results["trial"][0])
    assert "the training of the source network diverged" in failure["error"]
    assert len(list((tmp_path / "s" / "sources").glob("[!.]*.json"))) == 1


def test_test_images_in_the_source_cause_a_warning():
    assert make_plan(tiny()).warnings == ()
    same = tiny(target=TINY["target"] | {"classes": ["0", "1"]}, seeds=1)
    seen = len(set(make_plan(same).sources[0].split.train) & set(make_plan(same).trials[0].split.test))
    (warning,) = make_plan(same).warnings
    assert warning.startswith(f"{seen} of ")


@pytest.mark.slow
def test_levels_of_all_types_are_in_the_tables(copied):
    workdir, _ = copied
    rules = [[], [["stem/.*", 0.1], ["stage1/.*", "frozen"]]]
    factors = [{"training.layers.rates": rules}, {"training.layers.backbone_learning_rate": [None, "frozen"]}]
    study = tiny(
        factors=factors,
        seeds=1,
        execution={"keep_weights": "none"},
        training={"schedule.epochs": 0.5, "batches.size": 9},
    )
    results = jaxft.run_study(study, workdir, quiet=True)
    assert len(results) == 3  # the two blocks have one setting in common
    assert results["training.layers.backbone_learning_rate"].tolist() == ["none", "none", "frozen"]
    assert results["training.layers.rates"].tolist()[1] == (("stem/.*", 0.1), ("stage1/.*", "frozen"))
    assert pd.read_parquet(workdir / "results.parquet")["trial"].tolist() == results["trial"].tolist()


def test_the_weight_policy_applies_to_a_finished_study(copied):
    workdir, results = copied
    jaxft.run_study(tiny(execution={"keep_weights": "best_seed"}), workdir, quiet=True)
    kept = {path.stem for path in (workdir / "weights").glob("[!.]*")}
    assert len(kept & set(results["trial"])) == 3


def test_keep_weights_none_stores_no_weights(tmp_path):
    study = tiny(execution={"keep_weights": "none"}, seeds=1, factors=[])
    results = jaxft.run_study(study, tmp_path / "n", quiet=True)
    assert len(results) == 1 and not (tmp_path / "n" / "weights").exists()
    assert Store.open(tmp_path / "n").pairwise() is None


def test_a_diverged_trial_is_a_result(tmp_path):
    factors = [{"training.initialization.start": ["random"], "training.optimizer.learning_rate": [0.05, 1e38]}]
    results = jaxft.run_study(tiny(factors=factors, seeds=1), tmp_path / "d", quiet=True)
    assert results["status"].tolist() == ["done", "diverged"]
    assert results["test_accuracy"].isna().tolist() == [False, True]
    assert jaxft.run_study(tiny(factors=factors, seeds=1), tmp_path / "d", quiet=True).equals(results)


def test_a_failed_trial_is_recorded_and_runs_again(tmp_path, monkeypatch):
    import jaxft.study.pieces

    whole = jaxft.study.pieces.run_chunk
    calls = []

    def fails_once(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("no room on the device")
        return whole(*args, **kwargs)

    study = tiny(factors=[{"training.initialization.start": ["random"]}], seeds=3)
    monkeypatch.setattr(jaxft.study.pieces, "run_chunk", fails_once)
    results = jaxft.run_study(study, tmp_path / "f", quiet=True)
    assert results["status"].tolist() == ["done", "failed", "done"]
    failure = Store.open(tmp_path / "f").read("failures", results["trial"][1])
    assert failure["error"] == "MemoryError: no room on the device"
    again = jaxft.run_study(study, tmp_path / "f", quiet=True)
    assert again["status"].tolist() == ["done"] * 3


# --- kills ---

# Registers the network of the tests in another process.
WITH_TOY = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); import helpers\n"
KILLED = f"""{WITH_TOY}
from jaxft.config import from_dict, Study
import json, sys, jaxft
jaxft.run_study(from_dict(Study, json.loads(sys.argv[1])), sys.argv[2])
"""


def start_killed(workdir, study):
    """Returns a process that runs a study and that the test kills."""
    command = [sys.executable, "-c", KILLED, json.dumps(study), str(workdir)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"JAX_PLATFORMS": "cpu"})


def kill_at_random(workdir, study, chance):
    process = start_killed(workdir, study)
    time.sleep(chance.uniform(1, 16))
    process.kill()
    process.wait()


def kill_while_it_runs(workdir, study, chance):
    """Kills a study at a random moment after it has saved another checkpoint or trial."""

    def done():
        return {*workdir.glob("checkpoints/*/[0-9]*"), *workdir.glob("trials/[!.]*.json")}

    before = done()
    process = start_killed(workdir, study)
    while done() <= before and process.poll() is None:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.2))
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was over before"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "kills", "checkpoint_seconds"),
    [(kill_while_it_runs, 2, 0.0), pytest.param(kill_at_random, 20, 300.0, marks=pytest.mark.nightly)],
    ids=["while it runs", "at random"],
)
def test_a_killed_study_resumes_to_the_same_table(tmp_path, kill, kills, checkpoint_seconds):
    """A study that is killed by SIGKILL at random moments and resumed loses, repeats and changes nothing."""
    chance = random.Random(kills)
    for _ in range(kills):
        kill(tmp_path / "killed", TINY | {"execution": {"checkpoint_seconds": checkpoint_seconds}}, chance)
    for name in ("killed", "whole"):
        jaxft.run_study(tiny(), tmp_path / name, quiet=True)
    expected, resumed = jaxft.load_results(tmp_path / "whole"), jaxft.load_results(tmp_path / "killed")
    pd.testing.assert_frame_equal(without_times(resumed), without_times(expected))
    whole_store, killed_store = Store.open(tmp_path / "whole"), Store.open(tmp_path / "killed")
    pd.testing.assert_frame_equal(killed_store.changes(), whole_store.changes())
    assert len(list((tmp_path / "killed" / "trials").glob("*.json"))) == len(expected)
    assert not list((tmp_path / "killed").glob("checkpoints/*"))
    for digest in expected["trial"]:
        one, other = (load_file(store.weights_path(digest)) for store in (whole_store, killed_store))
        assert all(one[name].tobytes() == other[name].tobytes() for name in one)


# --- several processes ---

SEVERAL = f"""{WITH_TOY}
import json
from jaxft.config import Study, from_dict

print(json.dumps(helpers.counted_run(sys.argv[2], from_dict(Study, json.loads(sys.argv[1])))))
"""


@pytest.mark.slow
def test_processes_share_a_directory_and_run_each_job_once(ran, tmp_path):
    _, results = ran
    command = [sys.executable, "-c", SEVERAL, json.dumps(TINY), str(tmp_path / "shared")]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) for _ in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    done = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    assert sum(trials for trials, _, _ in done) == 6 and sum(sources for _, sources, _ in done) == 1
    assert not any(failed for _, _, failed in done)
    pd.testing.assert_frame_equal(without_times(jaxft.load_results(tmp_path / "shared")), without_times(results))
    assert not list((tmp_path / "shared").glob("locks/*"))


def test_shards_together_complete_the_study(ran, tmp_path):
    _, results = ran
    first = counted_run(tmp_path / "shards", tiny(), parse_shard("0/2"))
    second = counted_run(tmp_path / "shards", tiny(), parse_shard("1/2"))
    assert first[0] + second[0] == 6 and first[0] and second[0] and first[1] + second[1] == 1
    pd.testing.assert_frame_equal(without_times(jaxft.load_results(tmp_path / "shards")), without_times(results))


@pytest.fixture
def groups_of_one_network(tmp_path):
    """Returns the plan and the store of three groups of one network; one group trains only heads."""
    rules = [[], [["stem/.*", "frozen"]], [["head/.*", 1.0], [".*", "frozen"]]]
    study = tiny(factors=[{"training.layers.rates": rules}], execution={"workers": 2})
    return make_plan(study), Store.create(tmp_path / "study")


@pytest.mark.parametrize(("core_macs", "choice"), [(1e5, "workers"), (1e8, "sequential")])
def test_workers_run_long_studies_on_a_cpu(groups_of_one_network, monkeypatch, capsys, core_macs, choice):
    """One line reports the choice for all groups that train networks; heads on cached features are one program."""
    plan, store = groups_of_one_network
    monkeypatch.setattr("jaxft.study.chooser.CORE_MACS_PER_SECOND", core_macs)
    monkeypatch.setattr("jaxft.study.chooser.num_cores", lambda: 2)
    with Progress() as progress:
        chooser = Chooser(plan, store, progress)
        chosen = [chooser.choose(group) for group in plan.groups]
    assert [executor.name for executor, _ in chosen] == [choice, choice, "vmap"]
    assert capsys.readouterr().err == f"4 trials: {chosen[0][0]} ({chosen[0][1]})\n"
    seconds = sum(num_macs(group) * len(group.trials) for group in plan.groups[:2]) / core_macs / 2
    assert (seconds >= 20) == (choice == "workers")
    assert chosen[0][1] == chosen[1][1] == f"all steps would take about {duration(seconds)} sequentially"
    assert chosen[2][1] == ""


def test_num_macs_of_a_group(groups_of_one_network):
    """Training counts all blocks three times; a frozen stem with cached output is not counted."""
    plan, _ = groups_of_one_network
    whole, frozen_stem, _ = plan.groups
    phase, trial = whole.program.phases[-1], whole.trials[0]
    macs = {block.name: block.num_macs for block in block_costs(trial.model, trial.size_px)}
    assert macs["stem"] == trial.size_px**2 * 3 * 3 * 3 * 4
    images = phase.num_steps * phase.batch_size
    assert num_macs(whole) == 3 * sum(macs.values()) * images
    assert num_macs(frozen_stem) == 3 * (sum(macs.values()) - macs["stem"]) * images


def test_workers_start_with_different_programs(groups_of_one_network):
    plan, store = groups_of_one_network
    for group in plan.groups:
        assign_chunks(group, store, "sequential", lambda group: (Sequential(), ""))
    jobs = [job for group in plan.groups for job in chunk_jobs(group, store)]
    a, b, c = (jobs[i : i + 2] for i in (0, 2, 4))  # one chunk per seed
    assert ordered_for_worker((0, 2), jobs) == [*a, *b, *c]
    assert ordered_for_worker((1, 2), jobs) == [*b, *c, *a]
    assert ordered_for_worker((2, 3), jobs) == [*c, *a, *b]


# --- out of memory ---


@pytest.fixture
def little_memory(monkeypatch):
    """Returns `limit`: programs with more than `most` trials on a device run out of memory after `num_good` calls."""

    def limit(most: int, num_good: int = 2):
        make_run_steps, calls = loop.make_run_steps, collections.Counter()

        def make(phase, executor):
            run_steps = make_run_steps(phase, executor)

            def run(*args):
                calls[executor] += 1
                if executor.width // executor.num_devices > most and calls[executor] > num_good:
                    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1234 bytes.")
                return run_steps(*args)

            return run

        monkeypatch.setattr(loop, "make_run_steps", make)

    return limit


ALIKE = {
    "factors": [],
    "seeds": 8,
    "source": {"model": "toy"},
    "training": TINY["training"] | {"initialization.start": "random"},
}


@pytest.mark.slow
def test_out_of_memory_halves_the_width_and_continues(tmp_path, little_memory, capfd):
    """Eight seeds at width 4: the first four finish and stay; the others are bit-identical to a run at width 2."""
    execution = {"executor": "vmap", "width": 4}
    steps = make_plan(tiny(**ALIKE)).groups[0].program.phases[0].num_steps
    little_memory(most=2, num_good=steps)
    results = jaxft.run_study(tiny(**ALIKE, execution=execution), tmp_path / "a")
    assert "vmap at width 4 ran out of memory; continuing with vmap at width 2" in capfd.readouterr().err
    assert (results["status"] == "done").all() and results["width"].tolist() == [4] * 4 + [2] * 4
    last_seeds = tiny(**ALIKE | {"seeds": [4, 5, 6, 7]}, execution=execution | {"width": 2})
    expected = jaxft.run_study(last_seeds, tmp_path / "b", quiet=True)
    columns = ["trial", "test_accuracy", "relative_change"]
    assert results[columns].to_numpy()[4:].tolist() == expected[columns].to_numpy().tolist()


@pytest.mark.slow
def test_out_of_memory_with_one_trial_fails_with_advice(tmp_path, little_memory, capfd):
    little_memory(most=0)
    results = jaxft.run_study(tiny(**ALIKE, execution={"executor": "vmap", "width": 4}), tmp_path / "a")
    stderr = capfd.readouterr().err
    assert "continuing with vmap at width 2" in stderr and "continuing with vmap" in stderr
    assert stderr.count("ran out of memory") == 2, "halved once for all chunks"
    assert (results["status"] == "failed").all()
    assert stderr.count("1 trial failed: one trial needs more memory than the device has; set execution.remat") == 8


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["devices", "pmap"])
def test_out_of_memory_halves_the_trials_on_each_device(tmp_path, little_memory, executor):
    little_memory(most=1)
    study = tiny(**ALIKE | {"seeds": 16}, execution={"executor": executor, "width": 2})
    results = jaxft.run_study(study, tmp_path / "a", quiet=True)
    assert (results["status"] == "done").all() and results["width"].tolist() == [8] * 16


def test_a_deterministic_study_times_no_executor(monkeypatch, tmp_path):
    plan = make_plan(tiny(**ALIKE, execution={"deterministic": True}))
    monkeypatch.setattr(chooser_module, "time_steps", None)
    for available, chosen in (
        ([Sequential(), Vmap(8)], Vmap(8)),
        ([Sequential(), DataParallel(1, 4)], Sequential()),
    ):
        monkeypatch.setattr(chooser_module, "candidates", lambda *_, available=available: available)
        with Progress(quiet=True) as progress:
            chooser = Chooser(plan, Store.create(tmp_path / chosen.name), progress)
            assert chooser.choose(plan.groups[0])[0] == chosen


def test_an_executor_that_runs_out_of_memory_is_not_chosen(monkeypatch, tmp_path):
    plan = make_plan(tiny(**ALIKE))

    def time_steps(program, lane, images, executor):
        if executor.width > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1234 bytes.")
        return 10.0

    monkeypatch.setattr(chooser_module, "time_steps", time_steps)
    monkeypatch.setattr(chooser_module, "candidates", lambda *_: [Sequential(), Vmap(8)])
    with Progress(quiet=True) as progress:
        chooser = Chooser(plan, Store.create(tmp_path / "study"), progress)
        assert chooser.choose(plan.groups[0])[0] == Sequential()


@pytest.mark.slow
def test_the_trials_of_a_killed_worker_fail_and_run_again(tmp_path, monkeypatch, capfd):
    """One of two workers is killed after the first trial, the other after the third.

    Finished trials agree with sequential ones.
    """
    started, start = [], Workers.__init__

    def remember(self, *args):
        start(self, *args)
        started.extend(self.processes)

    monkeypatch.setattr(Workers, "__init__", remember)
    fields = {  # the network of the tests is not registered in worker processes
        "seeds": 6,
        "factors": [],
        "source": {"model": "cifar_resnet8"},
        "training": TINY["training"] | {"initialization.start": "random", "schedule.epochs": 6.0},
    }
    sequential = tiny(**fields, execution={"executor": "sequential"})
    alone = jaxft.run_study(sequential, tmp_path / "alone", quiet=True)
    study = tiny(**fields, execution={"executor": "workers", "workers": 2})
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(jaxft.run_study, study, tmp_path / "k")
        for process, num_trials in ((0, 1), (1, 3)):
            while len(list((tmp_path / "k").glob("trials/[!.]*.json"))) < num_trials and not running.done():
                time.sleep(0.05)
            started[process].kill()
        results = running.result()
    assert "its worker process died (exit codes: -9" in capfd.readouterr().err
    assert set(results["status"]) == {"done", "failed"}
    again = jaxft.run_study(sequential, tmp_path / "k", quiet=True)
    assert (again["status"] == "done").all() and len(again) == 6
    is_done = results["status"] == "done"
    assert again["executor"].tolist() == ["workers" if done else "sequential" for done in is_done]
    np.testing.assert_allclose(again["relative_change"], alone["relative_change"], rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["sequential", pytest.param("workers", marks=pytest.mark.nightly)])
def test_a_study_resumed_after_sigterm_is_bit_identical(tmp_path, executor):
    """On SIGTERM during a trial, the process exits within ten seconds; the resumed trial is bit-identical."""
    model = "toy" if executor == "sequential" else "cifar_resnet8"
    fields = {"seeds": 1, "factors": [], "source": {"model": model}}
    fields["execution"] = {"executor": executor, "checkpoint_seconds": 0.5}
    fields["training"] = TINY["training"] | {"initialization.start": "random", "schedule.epochs": 300.0}
    config = tmp_path / "config.py"
    config.write_text(f"{WITH_TOY}\ndef get_config():\n    return {TINY | fields!r}\n")
    command = [sys.executable, "-m", "jaxft.cli", "study", f"--config={config}", f"--workdir={tmp_path / 'stopped'}"]
    stopped = subprocess.Popen(
        command,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )

    def latest_checkpoint():
        return max(
            (int(path.name) for path in tmp_path.glob("stopped/checkpoints/*/[0-9]*") if path.name.isdigit()), default=0
        )

    while not latest_checkpoint():  # until it trains
        assert stopped.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    before = latest_checkpoint()
    stopped.send_signal(signal.SIGTERM)
    sigterm_time = time.monotonic()
    _, stderr = stopped.communicate(timeout=60)
    assert time.monotonic() - sigterm_time < 10 and stopped.returncode == 143, stderr
    assert "the same command resumes it" in stderr
    assert latest_checkpoint() > before
    for name in ("stopped", "whole"):
        jaxft.run_study(str(config), tmp_path / name, quiet=True)
    one, other = (load_file(next((tmp_path / name / "weights").iterdir())) for name in ("whole", "stopped"))
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


# --- compiled once ---


@pytest.mark.slow
def test_trials_with_different_hyperparameters_share_programs(tmp_path, caplog):
    """Two learning rates, momenta, weight decays and seeds: 16 trials, one training and one evaluation program."""
    factors = [
        {
            "training.optimizer.learning_rate": [0.01, 0.05],
            "training.optimizer.momentum": [0.5, 0.9],
            "training.optimizer.weight_decay": [0.0, 1e-3],
        }
    ]
    source = {"model": "toy"}
    training = TINY["training"] | {"initialization.start": "random", "schedule.epochs": 1.0, "batches.size": 7}
    study = tiny(source=source, factors=factors, training=training, execution={"executor": "sequential"})
    jax.clear_caches()  # of programs from other tests
    with jax.log_compiles(True), caplog.at_level("WARNING"):
        assert len(jaxft.run_study(study, tmp_path / "n", quiet=True)) == 16
    compiled = [match[1] for line in caplog.messages if (match := re.match(r"Compiling jit\((\w+)\)", line))]
    assert compiled.count("step") == compiled.count("eval_step") == 1


# --- convolutions ---


@pytest.mark.slow
@pytest.mark.usefixtures("needs_onednn")
def test_a_study_resumes_only_with_the_same_convolutions(tmp_path):
    began = tiny(seeds=1, execution={"cpu_convolution": "xla"}, factors=[{"training.initialization.start": ["random"]}])
    jaxft.run_study(began, tmp_path, quiet=True)
    assert Store.open(tmp_path).read_json("convolution.json") == {"computed_by": "XLA", "threads": 0}
    assert jaxft.run_study(began, tmp_path, quiet=True).shape[0] == 1
    grown = tiny(seeds=2, factors=[{"training.initialization.start": ["random"]}])
    with pytest.raises(UserError, match="started with convolutions by XLA, but this process uses oneDNN"):
        jaxft.run_study(grown, tmp_path, quiet=True)
    finished = tiny(seeds=1, factors=[{"training.initialization.start": ["random"]}])
    assert jaxft.run_study(finished, tmp_path, quiet=True).shape[0] == 1, "with nothing to run, nothing is computed"


@pytest.mark.usefixtures("needs_onednn")
def test_the_record_of_a_run_names_the_convolution_library(ran):
    workdir, _ = ran
    (run,) = [json.loads(path.read_bytes()) for path in workdir.glob("runs/[!.]*.json")][:1]
    recorded = Store.open(workdir).read_json("convolution.json")
    assert recorded["computed_by"].startswith("oneDNN 3.2.0 ") and recorded["threads"] == 1
    assert run["convolution"] == f"{recorded['computed_by']}, 1 thread"


# --- the commit of a run ----------------------------------------------------------------------------------------


@pytest.fixture
def git_repository(tmp_path):
    """Returns a repository with one commit, and a function that calls git in it."""
    folder = tmp_path / "repository"
    folder.mkdir()

    def git(*words):
        identity = ["-c", "user.name=n", "-c", "user.email=e", "-c", "protocol.file.allow=always"]
        return subprocess.check_output(["git", *identity, *words], cwd=folder, text=True).strip()

    git("init", "-q")
    for name in ("plain", "filtered", "equals"):
        (folder / f"{name}.txt").write_text("as committed\n")
    (folder / ".gitattributes").write_text("filtered.txt filter=one\nequals.txt filter=a=b.c\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    return folder, git


def test_the_commit_is_read_without_running_hooks_and_filters_of_the_repository(git_repository, tmp_path):
    folder, git = git_repository
    git("clone", "-q", str(folder), "below")
    git("submodule", "add", "-q", str(folder), "below")
    git("commit", "-q", "-m", "with a submodule")
    ran = tmp_path / "ran"
    script = folder / ".git/hooks/post-index-change"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f'#!/bin/sh\necho "$0 $@" >> {ran}\ncat\n')
    script.chmod(0o755)
    for name in ("core.fsmonitor", "filter.one.clean", "filter.a=b.c.clean", "filter.a=b.c.process"):
        for repository in (folder, folder / "below"):
            git("-C", str(repository), "config", name, str(script))
    git("config", "filter.one.required", "true")
    git("-C", "below", "config", "filter.below.clean", str(script))
    (folder / "below/.git/info/attributes").write_text("plain.txt filter=below\n")
    commit = git("-c", "core.fsmonitor=false", "rev-parse", "HEAD")
    ran.unlink(missing_ok=True)
    for path in folder.rglob("*.txt"):
        os.utime(path, (1, 1))  # git compares the content again
    state = git_state(folder)
    assert not ran.exists(), ran.read_text()
    assert state == {"commit": commit, "dirty": False}
    (folder / "plain.txt").write_text("changed\n")
    assert git_state(folder) == {"commit": commit, "dirty": True} and not ran.exists()


def test_filters_of_the_user_affect_the_dirty_state(git_repository, tmp_path, monkeypatch):
    """Such as the filters of git-lfs, with which files differ from the committed content."""
    folder, _ = git_repository
    (folder / "filtered.txt").write_text("AS COMMITTED\n")  # git reads no file whose length changed
    assert git_state(folder)["dirty"]
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    (tmp_path / "config").write_text('[filter "one"]\n\tclean = "cat > /dev/null; echo as committed"\n')
    assert not git_state(folder)["dirty"]


def test_no_commit_outside_of_a_repository(tmp_path):
    assert git_state(tmp_path) == {"commit": None, "dirty": None}
