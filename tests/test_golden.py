"""What programs are and compute, held against committed tables: code that moves changes neither."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import compare, digests, trials

TOLERANCE = 1e-4  # of the largest value: ten steps amplify the rounding of other processors and optimization levels


@pytest.mark.slow
def test_programs_are_those_of_the_committed_digests():
    """A change that only moves code leaves digests as they are; CONTRIBUTING.md says what to do otherwise."""
    if digests.versions() not in digests.table():
        pytest.skip(f"there are no digests for {digests.versions()}; python tests/golden/digests.py adds them")
    done = subprocess.run([sys.executable, digests.__file__, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_changed_program_is_named():
    assert digests.changed({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == ["b", "c"]


def test_a_digest_is_of_what_is_computed_and_not_of_names():
    x = jax.ShapeDtypeStruct((3,), jnp.float32)

    @jax.jit
    def inner(x):
        return {"a": x + x}

    @jax.jit
    def another(y):
        return {"b": y + y}

    @jax.jit
    def halves(y):
        return {"b": y + 2 * y}

    one, renamed, other = (digests.digest_of(lambda x, f=f: f(x), (x,)) for f in (inner, another, halves))
    assert one == renamed != other


@pytest.mark.parametrize("name", trials.TRIALS)
def test_ten_steps_of_a_trial_have_the_committed_losses_and_parameters(name):
    found, before = trials.summary(trials.outcome_of(name)), json.loads(trials.TABLE.read_text())[name]
    for curve in ("train_loss", "val_loss"):
        assert len(found[curve]) == trials.NUM_STEPS
        np.testing.assert_allclose(found[curve], before[curve], rtol=TOLERANCE)
    assert found["leaves"].keys() == before["leaves"].keys()
    for leaf, (norm, product) in before["leaves"].items():
        np.testing.assert_allclose(found["leaves"][leaf], [norm, product], atol=TOLERANCE * norm, err_msg=leaf)


def test_a_step_that_differs_is_found():
    leaves = {"float32|a|w": np.array([1.0, 2.0]), "float64|a|w": np.array([1.0, 2.0])}
    assert [ok for _, ok in compare.compare(leaves, leaves)] == [True, True]
    nudged = {name: leaf + np.array([0, 1e-7]) for name, leaf in leaves.items()}
    assert [ok for _, ok in compare.compare(nudged, leaves)] == [True, False]
    assert not next(compare.compare({"float32|a|v": np.ones(2)} | leaves, leaves))[1]
    broken = leaves | {"float32|a|w": np.array([1.0, np.nan])}
    assert not next(compare.compare(broken, leaves))[1]
