"""Precision and rematerialization: what changes, what stays float32, and what it takes of memory."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxft
from jaxft import UserError
from jaxft.config import Study, from_dict
from jaxft.execute import compiled_programs
from jaxft.executors import Executor
from jaxft.models import create_model
from jaxft.ops import precision
from jaxft.paths import flatten
from jaxft.plan import make_plan
from jaxft.study import example_images, example_lane
from jaxft.train import init_state, make_train_step, split_variables
from jaxft.weights import init_variables

FAMILIES = {"cifar_resnet8": 32, "squeezenet1_1": 64, "resnetsmall8+wider16": 32, "cifar_resnet8+deeper16": 32}


def study_of(procedure=None, model="cifar_resnet8", size_px=12, **execution):
    fields = {"epochs": 1.0, "batch_size": 8, "init": "random", "learning_rate": 0.05} | (procedure or {})
    source = {"model": model}
    if fields["init"] != "random":
        source["images"] = {"data": "digits", "train_per_class": 2}
    target = {"data": "digits", "train_per_class": 4, "val_per_class": 2, "size_px": size_px}
    rest = {"source": source, "target": target, "execution": execution, "seeds": 1}
    return from_dict(Study, {"procedure": fields, **rest})


def one_step(study):
    """Returns the state after a step of a study's trial, from the same arrays each time."""
    trial = make_plan(study).trials[0]
    lane, images = example_lane(trial), example_images(trial, study.execution)
    phase = trial.program.phases[-1]
    variables = init_variables(trial.model, jax.random.key(0), trial.size_px)
    params, batch_stats = (flatten(variables[name]) for name in ("params", "batch_stats"))
    live, tracked, frozen = split_variables(phase, lane.params | params, batch_stats)
    state = init_state(phase, live, tracked, lane.hparams, jax.random.key_data(jax.random.key(1)))
    rows = jnp.arange(phase.num_steps * phase.batch_size).reshape(phase.num_steps, -1) % len(images)
    step = jax.jit(precision.true_products(make_train_step(phase)))
    return step(state, lane.hparams, jnp.asarray(lane.labels), rows, frozen, jnp.asarray(images))


def distance(a, b):
    """Returns the norm of the difference of two trees, as a share of the second's."""
    difference = sum(float(jnp.square(x - y).sum()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))
    return (difference / sum(float(jnp.square(y).sum()) for y in jax.tree.leaves(b))) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("model", FAMILIES)
def test_layers_compute_in_bfloat16_and_all_that_is_kept_is_float32(model):
    network = create_model(model, 4)
    x = jax.random.normal(jax.random.key(0), (4, FAMILIES[model], FAMILIES[model], 3))
    variables = network.init(jax.random.key(1), x)
    narrow = network.computing("bfloat16")

    def loss(params, network):
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        logits, updated = network.apply({"params": params, **rest}, x, train=True, mutable=["batch_stats"])
        return jnp.square(logits).mean(), updated

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (value, stats), grads = run(variables["params"], narrow)
    (expected, _), _ = run(variables["params"], network)
    assert {leaf.dtype for leaf in jax.tree.leaves((value, stats, grads))} == {jnp.dtype("float32")}
    assert float(value) == pytest.approx(float(expected), rel=0.1) and value != expected
    text = str(jax.make_jaxpr(loss, static_argnums=1)(variables["params"], narrow))
    kinds = {line.split(":")[1].split("[")[0] for line in text.splitlines() if "jaxft_convolution" in line}
    assert kinds == {"bf16"} or (kinds == {"bf16", "f32"} and model == "squeezenet1_1"), "but for its classifier"


def test_products_are_true_ones_but_where_tf32_is_asked_for():
    """In the lowered program of every precision, whatever JAX's default is."""
    x = jnp.ones((1, 12, 12, 3))
    for name, word in {"float32": "HIGHEST", "tf32": "HIGH", "bfloat16": "HIGHEST"}.items():
        network = create_model("cifar_resnet8", 4).computing(name)
        variables = network.init(jax.random.key(0), x)
        with jax.default_matmul_precision("bfloat16"):
            grad = jax.jit(jax.grad(lambda v, x, network=network: network.apply(v, x).sum()))
            text = jax.export.export(grad, platforms=["cuda"])(variables, x).mlir_module()
        products = [line for line in text.splitlines() if re.search(r"stablehlo.(convolution|dot_general)", line)]
        assert len(products) > 15
        assert all(len(re.findall(rf"\b{word}\b", line)) == 2 for line in products)


def test_precision_is_part_of_what_a_trial_is():
    digests = {make_plan(study_of(precision=name)).trials[0].digest for name in ("float32", "tf32", "bfloat16")}
    assert len(digests) == 3
    assert make_plan(study_of()).trials[0].digest == make_plan(study_of(remat=True)).trials[0].digest
    trained = [make_plan(study_of({"init": "pretrained"}, precision=name)).sources[0] for name in ("float32", "tf32")]
    assert trained[0].digest != trained[1].digest
    with pytest.raises(UserError, match=r"'execution\.precision' is 'float16'"):
        study_of(precision="float16")


TERMS = {
    "tracked statistics": {},
    "frozen statistics": {"batch_norm": "frozen"},
    "noise and terms": {"stochastic_depth": 0.3, "dropout": 0.3, "bss": 0.1, "virtual_batch_size": 4},
    "low-rank factors": {"tune": "lora", "lora_rank": 2},
    "sharpness in parts": {"sam_radius": 0.05, "accumulate": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("terms", TERMS)
def test_remat_changes_no_value(terms):
    once, again = (one_step(study_of(TERMS[terms], remat=remat)) for remat in (False, True))
    assert distance(again[0].params, once[0].params) < 1e-6
    assert distance(again[0].batch_stats, once[0].batch_stats) < 1e-6 if once[0].batch_stats else True
    np.testing.assert_allclose(again[1].loss, once[1].loss, rtol=1e-5)


@pytest.mark.slow
def test_remat_and_bfloat16_take_less_memory():
    """Of 27 blocks the inputs are kept in place of all activations, and with bfloat16 in half the bytes."""

    def temporary_bytes(**execution):
        study = study_of(model="cifar_resnet56", size_px=32, **execution)
        group = make_plan(study).groups[0]
        lane, images = example_lane(group.trials[0]), example_images(group.trials[0], study.execution)
        programs = {name: (f, args) for name, f, args in compiled_programs(group.program, lane, images, Executor())}
        function, args = programs["train"]
        return function.lower(*args).compile().memory_analysis().temp_size_in_bytes

    everything, inputs = temporary_bytes(), temporary_bytes(remat=True)
    assert inputs < everything / 2
    assert temporary_bytes(remat=True, precision="bfloat16") < 0.75 * inputs


def test_a_study_in_bfloat16_goes_on_with_it(tmp_path):
    """Other numbers are other trials: what was trained in float32 stays, and is no result of the study in bfloat16."""
    first = jaxft.run_study(study_of(precision="bfloat16"), tmp_path / "a", quiet=True)
    again = jaxft.run_study(study_of(precision="bfloat16"), tmp_path / "a", quiet=True)
    assert first.equals(again)
    other = jaxft.run_study(study_of(), tmp_path / "b", quiet=True)
    assert other["trial"][0] != first["trial"][0]


@pytest.mark.slow
def test_two_runs_of_a_deterministic_study_have_the_same_bits(tmp_path, root):
    command = [sys.executable, "-m", "jaxft.cli", "study", f"--config={root}/configs/quickstart.py", "--deterministic"]
    command += ["--config.seeds=1", "--config.factors=[]", "--config.execution.executor=in_turn"]
    command += ["--config.source.procedure.epochs=1", "--config.procedure.epochs=1"]
    for name in "ab":
        subprocess.run([*command, f"--workdir={tmp_path / name}"], check=True, capture_output=True)
    weights = [sorted((tmp_path / name / "weights").glob("*.safetensors")) for name in "ab"]
    assert weights[0] and [p.name for p in weights[0]] == [p.name for p in weights[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*weights))


def test_a_gpu_must_have_been_told_to_be_deterministic(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(UserError, match="give the option --deterministic to `jaxft study`"):
        jaxft.run_study(study_of(deterministic=True), tmp_path / "a", quiet=True)


def test_the_environment_of_a_deterministic_run(monkeypatch):
    from jaxft import devices

    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    monkeypatch.setattr(devices, "_is_installed", lambda package: False)
    assert devices.deterministic_environment() == {}
    monkeypatch.setattr(devices, "_is_installed", lambda package: package == "jax-cuda13-plugin")
    wanted = devices.deterministic_environment()
    assert wanted == {"XLA_FLAGS": "--xla_dump_to=x --xla_gpu_deterministic_ops=true"}
    monkeypatch.setenv("XLA_FLAGS", wanted["XLA_FLAGS"])
    assert devices.deterministic_environment() == {}
