"""The programs of a study lower for GPUs and TPUs, without one here: what they hold, and where platforms differ."""

import ast
import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from golden.programs import EXECUTORS, FAMILIES, PROCEDURES, other_programs, programs_of
from jax import monitoring

import jaxft
from jaxft.config import Study, from_dict
from jaxft.study.chunk import compiled
from jaxft.training.evaluation import make_eval_step, make_moments_step
from jaxft.training.step import make_train_step

PLATFORMS = ["cuda", "tpu"]  # of each program one module for both: jaxft makes no difference between them
SINGULAR_VALUES = {"cusolver_gesvdj_ffi", "Qr", "Eigh", "ProductOfElementaryHouseholderReflectors"}


@pytest.fixture
def on_an_accelerator(monkeypatch):
    """Makes jaxft trace programs as it does on an accelerator, and forget them afterwards."""
    caches = compiled.make_steps, compiled.make_run_steps, compiled.make_eval, compiled.make_moments, make_train_step
    caches += compiled.make_init_states, compiled.make_merge, compiled.make_finite, make_eval_step, make_moments_step

    def forget():
        for cache in caches:
            cache.cache_clear()
        jax.clear_caches()

    forget()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    yield
    monkeypatch.undo()
    forget()


def lowered(function, args, known_calls=(), double=True):
    """Returns the text of a program for both platforms, which calls no library but `known_calls`, and never the host.

    With `double` JAX's 64-bit mode is on, in which arrays without a dtype are float64: none has two dimensions.
    """
    jitted = function if hasattr(function, "trace") else jax.jit(function)  # pmap's is hidden in it
    with jax.enable_x64(double), jax.numpy_dtype_promotion("standard"):
        text = jax.export.export(jitted, platforms=PLATFORMS)(*args).mlir_module()
    assert set(re.findall(r"custom_call @([\w.]+)", text)) <= {*known_calls, "Sharding"}
    assert "callback" not in text and "outfeed" not in text and "infeed" not in text
    products = re.findall(r".*stablehlo\.(?:dot_general|convolution).*f32.*", text)
    assert all("HIGHEST" in line for line in products), "one without a precision, which JAX rounds on accelerators"
    assert not re.search(r"tensor<\d+x[\dx]*\d+xf64>", text), "more than a number of each trial or image"
    return text


WHOLE = pytest.param("efficientnet_lite0", "devices", marks=pytest.mark.nightly)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "executor"), [*itertools.product(FAMILIES, EXECUTORS), WHOLE])
def test_networks_of_three_families_lower_by_every_executor(model, executor, on_an_accelerator):
    names = []
    for name, function, args in programs_of(model, FAMILIES.get(model, 32), executor=EXECUTORS[executor]):
        text = lowered(function, args)
        names.append(name)
        assert ("while" in text) >= (name == "train"), "a stretch of steps is a loop on the device"
    assert names == ["init", "train", "finite", "evaluate"]


@pytest.mark.slow
@pytest.mark.parametrize("training", PROCEDURES)
def test_every_kind_of_step_lowers(training, on_an_accelerator):
    names = set()
    for name, function, args in programs_of(training=PROCEDURES[training]):
        # In JAX's 64-bit mode Optax's line search has float64 of its own, and so has JAX's decomposition on a TPU.
        has_own = "L-BFGS" in training or training == "all terms of the loss"
        calls = SINGULAR_VALUES if training == "all terms of the loss" else ()
        lowered(function, args, calls, double=not has_own)
        names.add(name)
    assert {"init", "train", "finite", "evaluate"} <= names
    assert ("moments" in names) == (training == "statistics") and ("merge" in names) == (training == "low-rank factors")


@pytest.mark.slow
def test_features_classifiers_and_analyses_lower(on_an_accelerator):
    for name, (function, args) in other_programs().items():
        lowered(function, args, double=not name.startswith(("fit_all", "draw")))


def defined_functions():
    """Returns the names of all functions of the package."""
    trees = [ast.parse(path.read_text()) for path in Path(jaxft.__file__).parent.rglob("*.py")]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


# As JAX names what it compiles, the programs that are lowered above.
LOWERED = {"init_state", "step", "loop", "merged", "moments_step", "eval_step", "outputs", "outputs_after", "_where"}
LOWERED |= {"_fit_all", "_nearest", "_of_layer", "pairwise_distances", "masked_loss"}
LOWERED |= {"init_all", "init_new_head", "is_finite"}


@pytest.mark.slow
def test_a_study_compiles_nothing_else(tmp_path):
    """By what JAX says that it compiles in studies of all kinds: its own operations, and functions that are lowered."""
    names = set()

    def recorded_events(event, seconds, **labels):
        if event.endswith("/backend_compile_duration"):
            names.add(labels["fun_name"].removeprefix("jit(").removesuffix(")"))

    towards_the_source = {
        "regularization.delta.strength": 0.1,
        "regularization.bss.strength": 0.1,
        "regularization.distillation.strength": 0.1,
        "batch_norm.statistics": "recalibrated",
    }
    frozen = {"linear_probe.epochs": 1.0, "layers.rates": [["stem/.*", "frozen"]]}
    low_rank = {"layers.tune": "lora", "layers.lora_rank": 2, "initialization.head": "class_means"}
    readouts = [{"classifier.kind": name} for name in ("logistic", "knn", "class_mean")]
    jax.clear_caches()
    monitoring.register_event_duration_secs_listener(recorded_events)
    try:
        for i, training in enumerate((towards_the_source, frozen, low_rank, *readouts)):
            common = {} if "classifier" in training else {"batches.size": 8, "schedule.epochs": 1.0}
            fields = {
                "seeds": 2,
                "source": {"model": "toy", "images": {"data": "digits", "train_per_class": 2, "size_px": 8}},
                "target": {"data": "digits", "train_per_class": 4, "val_per_class": 2},
                "training": training | common,
            }
            jaxft.run_study(from_dict(Study, fields), tmp_path / str(i), quiet=True)
    finally:
        jax.monitoring.unregister_event_duration_listener(recorded_events)
    assert "<lambda>" not in names
    jax_names = {*dir(jnp), *dir(jax.lax)}  # JAX compiles its own operations as `_mean`, too
    assert {name for name in names & defined_functions() if name.lstrip("_") not in jax_names} <= LOWERED
    assert LOWERED - names <= {"loop"}, "each of them is compiled, but for what is one on accelerators alone"


def outer_functions(tree):
    """Yields the functions and methods of a module that are in no other function."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from outer_functions(node)


def test_programs_differ_by_platform_in_a_few_places():
    """Where jaxft asks which platform it is on: docs/accelerators.md has the list, with reasons."""
    root = Path(jaxft.__file__).parent
    places = set()
    for path in root.rglob("*.py"):
        for function in outer_functions(ast.parse(path.read_text())):
            if any(isinstance(node, ast.Attribute) and node.attr == "default_backend" for node in ast.walk(function)):
                places.add(f"{path.relative_to(root).with_suffix('')}.{function.name}")
    of_programs = {
        "data/augmentation/augment.over_images",
        "study/chunk/evaluation.eval_batch",
        "study/chunk/compiled.loops_on_device",
        "training/gradients.in_micro_batches",
        "models/layers.max_pool",
        "models/initialization._jit_once",
    }
    of_choices = {
        "recipes/finetune/candidates.make_candidates",
        "recipes/study._check_deterministic",
        "recipes/study._slow_convolutions",
        "core/devices.device_kind",
        "core/devices.device_name",
        "study/candidates.automatic",
        "study/executors.fit",
        "features/prefix._environment",
        "study/jobs.work_key",
        "ops/convolution.implementation",
    }
    assert places == of_programs | of_choices
    page = (Path(__file__).parent.parent / "docs" / "accelerators.md").read_text()  # the package may be installed
    assert all(f"`{place}`" in page for place in of_programs)
