"""Soups and lines: averages computed by hand, recomputed batch-norm statistics, and a finished study."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxft
from jaxft.analysis.averaging import average, greedy_soup, interpolate
from jaxft.cli import main
from jaxft.config import Study, from_dict
from jaxft.core import paths
from jaxft.store.records import Store
from jaxft.study.plan import make_plan
from jaxft.training.evaluation import pool_moments
from jaxft.weights import load_flat


def test_an_average_is_leaf_by_leaf():
    found = average([{"a": np.float32([1, 2])}, {"a": np.float32([3, 6])}, {"a": np.float32([5, 1])}])
    np.testing.assert_array_equal(found["a"], [3, 3])
    assert found["a"].dtype == np.float32


def test_a_line_goes_from_the_start_to_the_end():
    start, final = {"a": np.float32([0, 4])}, {"a": np.float32([1, 8])}
    assert [interpolate(start, final, alpha)["a"].tolist() for alpha in (0, 0.25, 1)] == [[0, 4], [0.25, 5], [1, 8]]


def test_the_greedy_soup_takes_what_does_not_harm():
    scores = {(1,): 0.8, (1, 3): 0.7, (1, 0): 0.8, (1, 0, 2): 0.9}
    asked = []

    def score_of(some):
        asked.append(some)
        return scores[some]

    # In the order of the scores 1, 3, 0, 2: 3 makes it worse, 0 is as good, 2 better.
    assert greedy_soup([0.5, 0.8, 0.4, 0.6], score_of) == ((1, 0, 2), 0.9)
    assert asked == [(1, 3), (1, 0), (1, 0, 2)]


# --- of a study ---


STUDY = {
    "seeds": 3,
    "source": {"model": "toy"},
    "target": {
        "size_px": 8,
        "classes": ["0", "1", "2"],
        "train_per_class": 8,
        "val_per_class": 6,
        "test_per_class": 10,
    },
    "training": {
        "initialization.start": "random",
        "schedule.epochs": 3.0,
        "batches.size": 8,
        "optimizer.learning_rate": 0.05,
        "selection.weights": "last",
    },
    "streams": {"split": 0, "init": 0},
}


pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture(scope="module")
def ran(made_once):
    """Returns the work directory of a study of three seeds, and its soups."""

    def run(folder):
        jaxft.run_study(from_dict(Study, STUDY), folder / "study", quiet=True)
        jaxft.make_soups(folder / "study", num_alphas=3, quiet=True)

    workdir = made_once("soup", run) / "study"
    return workdir, jaxft.make_soups(workdir, num_alphas=3, quiet=True)  # which it has kept


@pytest.mark.slow
def test_the_line_ends_at_the_accuracy_of_the_trial(ran):
    workdir, found = ran
    results = jaxft.load_results(workdir).set_index("trial")
    ends = found.lines[found.lines["alpha"] == 1].set_index("trial")
    assert ends["val_accuracy"].tolist() == pytest.approx(results["val_accuracy"].tolist())
    assert ends["test_accuracy"].tolist() == results["test_accuracy"].tolist()
    assert found.lines["alpha"].tolist() == [0, 0.5, 1] * 3
    assert (found.lines.groupby("trial")["chosen"].sum() == 1).all()
    known = found.lines["test_accuracy"].notna()
    assert (known == (found.lines["chosen"] | (found.lines["alpha"] == 1))).all()


@pytest.mark.slow
def test_the_uniform_soup_is_the_average_with_recomputed_statistics(ran):
    workdir, found = ran
    (row,) = found.soups.to_dict("records")
    trials = make_plan(from_dict(Study, STUDY)).trials
    store, first = Store.open(workdir), trials[0]
    flats = [load_flat(store.weights_path(trial.digest), trial.model)[0] for trial in trials]
    params, stats = (
        average([{n.partition("/")[2]: v for n, v in f.items() if n.startswith(c)} for f in flats])
        for c in ("params/", "batch_stats/")
    )
    images, split = jnp.asarray(first.images.images), first.split
    own = first.program.phases[-1]
    variables = {"params": paths.unflatten(params), "batch_stats": paths.unflatten(stats)}
    seen = own.preprocessing.apply(images[split.train])
    apply = jax.jit(first.model.apply, static_argnames=("train", "mutable"))
    _, found = apply(variables, seen, train=True, mutable=("batch_stats", "moments"))
    anew = pool_moments([{n: np.asarray(v) for n, v in paths.flatten(found["moments"]).items()}], [len(seen)])
    assert anew.keys() == stats.keys()
    variables["batch_stats"] = paths.unflatten(anew)
    logits = apply(variables, own.preprocessing.apply(images[split.test]))
    assert row["test_uniform"] == pytest.approx((np.asarray(logits).argmax(1) == split.labels[split.test]).mean())
    records = [store.read("trials", trial.digest) for trial in trials]
    assert row["val_single"] == max(record["val_accuracy"] for record in records)
    assert row["val_greedy"] >= row["val_single"] and row["networks"] == 3


@pytest.mark.slow
def test_results_are_stored_and_not_evaluated_again(ran, tmp_path, monkeypatch, capsys):
    workdir, found = shutil.copytree(ran[0], tmp_path / "study"), ran[1]
    monkeypatch.setattr("jaxft.study.scorer.Scorer.accuracy", lambda *args: pytest.fail("evaluated again"))
    again = jaxft.make_soups(workdir, num_alphas=3, quiet=True)
    assert again.soups.equals(found.soups) and again.lines.equals(found.lines)
    assert main(["soup", str(workdir), "--alphas", "3"]) == 0
    assert "3" in capsys.readouterr().out and (workdir / "soup.png").stat().st_size > 1000


@pytest.mark.slow
def test_the_fine_tuned_head_can_be_used_at_all_points(ran, tmp_path):
    workdir = shutil.copytree(ran[0], tmp_path / "study")
    line = jaxft.make_soups(workdir, num_alphas=2, head="final", quiet=True).lines
    assert line["val_accuracy"].between(0, 1).all() and len(line) == 6


@pytest.mark.slow
def test_networks_with_different_splits_are_skipped(tmp_path):
    apart = STUDY | {"streams": {"init": 0}, "seeds": 2, "training": STUDY["training"] | {"schedule.epochs": 1.0}}
    jaxft.run_study(from_dict(Study, apart), tmp_path / "study", quiet=True)
    found = jaxft.make_soups(tmp_path / "study", num_alphas=2, quiet=True)
    assert found.soups.empty and "set config.streams.split = 0" in found.skipped[0]


@pytest.mark.slow
def test_networks_with_different_images_are_skipped(tmp_path):
    apart = STUDY | {"factors": [{"target.shuffle_px": [None, 4]}], "seeds": 1}
    apart["training"] = STUDY["training"] | {"schedule.epochs": 1.0}
    jaxft.run_study(from_dict(Study, apart), tmp_path / "study", quiet=True)
    found = jaxft.make_soups(tmp_path / "study", over=["target.shuffle_px"], num_alphas=2, quiet=True)
    assert found.soups.empty and "the networks have different images" in found.skipped[0]


def test_invalid_requests_are_refused(tmp_path):
    features = STUDY | {"training": {"initialization.start": "random", "classifier.kind": "class_mean"}, "seeds": 1}
    jaxft.run_study(from_dict(Study, features), tmp_path / "study", quiet=True)
    for arguments, sentence in [
        ({}, "has no final weights of trained networks"),
        ({"over": ["training.schedule.epochs"]}, "'training.schedule.epochs' is not a factor of this study"),
        ({"head": "new"}, "head is 'new'"),
        ({"num_alphas": 1}, "the number of alphas is 1"),
    ]:
        with pytest.raises(jaxft.UserError, match=sentence):
            jaxft.make_soups(tmp_path / "study", quiet=True, **arguments)
    with pytest.raises(jaxft.UserError, match="there is no study"):
        jaxft.make_soups(tmp_path / "none")
