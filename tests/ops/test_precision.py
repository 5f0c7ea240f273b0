"""Precision and rematerialization: dtypes, values and memory."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draw_variables

import jaxft
from jaxft import UserError
from jaxft.cli import main
from jaxft.config import Study, from_dict
from jaxft.core.paths import flatten
from jaxft.models import create_model
from jaxft.ops import precision
from jaxft.study.chunk.memory import compiled_programs
from jaxft.study.examples import example_images, example_lane
from jaxft.study.executors import Sequential
from jaxft.study.plan import make_plan
from jaxft.training.forward import apply_network
from jaxft.training.state import init_state, split_variables
from jaxft.training.step import make_train_step

NETWORKS = {"toy": 8, "squeezenet1_1": 48, "resnetsmall8+wider16": 16, "toy+deeper16": 8}


def study_of(training=None, model="toy", size_px=8, **execution):
    fields = {
        "schedule.epochs": 1.0,
        "batches.size": 8,
        "initialization.start": "random",
        "optimizer.learning_rate": 0.05,
    } | (training or {})
    source = {"model": model}
    if fields["initialization.start"] != "random":
        source["images"] = {"data": "digits", "train_per_class": 2}
    target = {"data": "digits", "train_per_class": 4, "val_per_class": 2, "size_px": size_px}
    rest = {"source": source, "target": target, "execution": execution, "seeds": 1}
    return from_dict(Study, {"training": fields, **rest})


def one_step(study):
    """Returns the state after a step of a study's trial, from the same arrays each time."""
    trial = make_plan(study).trials[0]
    lane, images = example_lane(trial), example_images(trial, study.execution)
    phase = trial.program.phases[-1]
    variables = draw_variables(trial.model, trial.size_px)
    params, batch_stats = (flatten(variables[name]) for name in ("params", "batch_stats"))
    live, tracked, frozen = split_variables(phase, lane.params | params, batch_stats)
    state = init_state(phase, live, tracked, lane.hparams, jax.random.key_data(jax.random.key(1)))
    rows = jnp.arange(phase.num_steps * phase.batch_size).reshape(phase.num_steps, -1) % len(images)
    step = jax.jit(precision.true_products(make_train_step(phase)))
    return step(state, lane.hparams, jnp.asarray(lane.labels), rows, frozen, jnp.asarray(images))


def distance(a, b):
    """Returns the norm of the difference of two trees, divided by the norm of the second tree."""
    difference = sum(float(jnp.square(x - y).sum()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))
    return (difference / sum(float(jnp.square(y).sum()) for y in jax.tree.leaves(b))) ** 0.5


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=[pytest.mark.slow] * ("toy" not in name)) for name in NETWORKS]
)
def test_layers_compute_in_bfloat16_and_stored_values_are_float32(model):
    network = create_model(model, 4)
    x = jax.random.normal(jax.random.key(0), (4, NETWORKS[model], NETWORKS[model], 3))
    variables = draw_variables(network, NETWORKS[model])
    narrow = network.with_precision("bfloat16")

    def loss(params, network):
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        logits, updated = network.apply({"params": params, **rest}, x, train=True, mutable=["batch_stats"])
        return jnp.square(logits).mean(), updated

    run = jax.jit(lambda params, network: loss(params, network)[0], static_argnums=1)
    value, expected = run(variables["params"], narrow), run(variables["params"], network)
    assert float(value) == pytest.approx(float(expected), rel=0.1) and value != expected
    kept = jax.eval_shape(lambda params: jax.value_and_grad(loss, has_aux=True)(params, narrow), variables["params"])
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {jnp.dtype("float32")}
    text = str(jax.make_jaxpr(loss, static_argnums=1)(variables["params"], narrow))
    kinds = {line.split(":")[1].split("[")[0] for line in text.splitlines() if "jaxft_convolution" in line}
    assert kinds == {"bf16"} or (kinds == {"bf16", "f32"} and model == "squeezenet1_1"), "but for its classifier"


def test_products_are_true_float32_unless_tf32_is_set():
    """In the lowered program of each precision, with any default of JAX."""
    x = jnp.ones((1, 8, 8, 3))
    for name, word in {"float32": "HIGHEST", "tf32": "HIGH", "bfloat16": "HIGHEST"}.items():
        network = create_model("toy", 4).with_precision(name)
        variables = jax.eval_shape(network.init, jax.random.key(0), x)
        with jax.default_matmul_precision("bfloat16"):
            grad = jax.jit(jax.grad(lambda v, x, network=network: network.apply(v, x).sum()))
            text = jax.export.export(grad, platforms=["cuda"])(variables, x).mlir_module()
        products = [line for line in text.splitlines() if re.search(r"stablehlo.(convolution|dot_general)", line)]
        assert len(products) > 15
        assert all(len(re.findall(rf"\b{word}\b", line)) == 2 for line in products)


def test_precision_is_part_of_the_identity_of_a_trial():
    digests = {make_plan(study_of(precision=name)).trials[0].digest for name in ("float32", "tf32", "bfloat16")}
    assert len(digests) == 3
    assert make_plan(study_of()).trials[0].digest == make_plan(study_of(remat=True)).trials[0].digest
    trained = [
        make_plan(study_of({"initialization.start": "pretrained"}, precision=name)).sources[0]
        for name in ("float32", "tf32")
    ]
    assert trained[0].digest != trained[1].digest
    with pytest.raises(UserError, match=r"'execution\.precision' is 'float16'"):
        study_of(precision="float16")


TERMS = {
    "tracked statistics": {},
    "noise and terms": {
        "regularization.stochastic_depth.rate": 0.3,
        "regularization.dropout.rate": 0.3,
        "regularization.bss.strength": 0.1,
        "batch_norm.virtual_batch_size": 4,
    },
    "low-rank factors, frozen statistics": {
        "layers.tune": "lora",
        "layers.lora_rank": 2,
        "batch_norm.statistics": "frozen",
    },
    "sharpness in parts": {"optimizer.sam_radius": 0.05, "batches.accumulate": 2},
}


@pytest.mark.parametrize(
    "terms", [pytest.param(name, marks=[pytest.mark.slow] * (TERMS[name] != {})) for name in TERMS]
)
def test_remat_changes_no_value(terms):
    once, again = (one_step(study_of(TERMS[terms], remat=remat)) for remat in (False, True))
    assert distance(again[0].params, once[0].params) < 1e-6
    assert distance(again[0].batch_stats, once[0].batch_stats) < 1e-6 if once[0].batch_stats else True
    np.testing.assert_allclose(again[1].loss, once[1].loss, rtol=1e-5)


def test_with_remat_the_backward_pass_keeps_the_inputs_of_blocks_in_the_dtype_of_their_layers():
    """Of the images' activations; a batch norm's arrays have other first axes."""

    def kept(**execution):
        trial = make_plan(study_of(model="cifar_resnet8", size_px=16, **execution)).trials[0]
        lane, phase = example_lane(trial), trial.program.phases[-1]
        live, tracked, frozen = split_variables(phase, lane.params, lane.batch_stats)

        def pull(live, images):
            return jax.vjp(lambda live: apply_network(phase, live, tracked, frozen, images, train=True), live)[1]

        images = jax.ShapeDtypeStruct((7, 16, 16, 3), jnp.uint8)
        arrays = [leaf for leaf in jax.tree.leaves(jax.eval_shape(pull, live, images)) if leaf.shape[:1] == (7,)]
        return [(*leaf.shape[1:], leaf.dtype.name) for leaf in arrays]

    inputs = [(16, 16, 3), (16, 16, 16), (16, 16, 16), (8, 8, 32), (4, 4, 64), (64,)]  # the last, of the head
    assert kept(remat=True) == [(*shape, "float32") for shape in inputs]
    assert kept(remat=True, precision="bfloat16") == [(*shape, "bfloat16") for shape in inputs]
    assert len(kept()) > 4 * len(inputs)


def temporary_bytes(model, **execution):
    """Returns the memory of a training program without its arguments and results, in bytes."""
    study = study_of(model=model, size_px=32, **execution)
    group = make_plan(study).groups[0]
    lane, images = example_lane(group.trials[0]), example_images(group.trials[0], study.execution)
    programs = {name: (f, args) for name, f, args in compiled_programs(group.program, lane, images, Sequential())}
    function, args = programs["train"]
    return function.lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_a_program_with_remat_takes_less_memory():
    """The inputs of 6 blocks are kept instead of all activations."""
    assert temporary_bytes("cifar_resnet14", remat=True) < temporary_bytes("cifar_resnet14") / 2


@pytest.mark.slow
@pytest.mark.nightly
def test_programs_with_remat_and_bfloat16_take_less_memory():
    """The inputs of 27 blocks are kept instead of all activations, with bfloat16 in half the bytes."""
    inputs = temporary_bytes("cifar_resnet56", remat=True)
    assert inputs < temporary_bytes("cifar_resnet56") / 2
    assert temporary_bytes("cifar_resnet56", remat=True, precision="bfloat16") < 0.75 * inputs


@pytest.mark.slow
def test_a_study_in_bfloat16_resumes_and_has_other_digests_than_in_float32(tmp_path):
    study = study_of(precision="bfloat16", executor="sequential")
    first = jaxft.run_study(study, tmp_path / "a", quiet=True)
    again = jaxft.run_study(study, tmp_path / "a", quiet=True)
    assert first.equals(again)
    ours, other = (make_plan(each).trials[0].digest for each in (study, study_of(executor="sequential")))
    assert first["trial"][0] == ours != other


CONFIG = """
def get_config():
    return {
        "seeds": 1,
        "source": {"model": "cifar_resnet8"},
        "target": {"data": "digits", "size_px": 8, "train_per_class": 5, "val_per_class": 2},
        "training": {
            "initialization": {"start": "random"},
            "optimizer": {"learning_rate": 0.1},
            "schedule": {"epochs": 2.0},
            "batches": {"size": 25},
            "augmentation": {"crop": {"padding_px": 2}},
        },
        "execution": {"executor": "sequential"},
    }
"""


@pytest.mark.slow
def test_two_runs_of_a_deterministic_study_are_bit_identical(tmp_path):
    """One in this process and one in another."""
    (tmp_path / "tiny.py").write_text(CONFIG)
    words = ["study", f"--config={tmp_path / 'tiny.py'}", "--deterministic"]
    assert main([*words, f"--workdir={tmp_path / 'a'}"]) == 0
    command = [sys.executable, "-m", "jaxft.cli", *words, f"--workdir={tmp_path / 'b'}"]
    subprocess.run(command, check=True, capture_output=True)
    weights = [sorted((tmp_path / name / "weights").glob("*.safetensors")) for name in "ab"]
    assert weights[0] and [p.name for p in weights[0]] == [p.name for p in weights[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*weights))


def test_a_deterministic_study_on_a_gpu_needs_the_flag(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(UserError, match="run `jaxft study --deterministic`"):
        jaxft.run_study(study_of(deterministic=True), tmp_path / "a", quiet=True)


def test_the_environment_of_a_deterministic_run(monkeypatch):
    from jaxft.core import devices

    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    monkeypatch.setattr(devices, "_is_installed", lambda package: False)
    assert devices.deterministic_environment() == {}
    monkeypatch.setattr(devices, "_is_installed", lambda package: package == "jax-cuda13-plugin")
    wanted = devices.deterministic_environment()
    assert wanted == {"XLA_FLAGS": "--xla_dump_to=x --xla_gpu_deterministic_ops=true"}
    monkeypatch.setenv("XLA_FLAGS", wanted["XLA_FLAGS"])
    assert devices.deterministic_environment() == {}
