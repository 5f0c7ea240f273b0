"""The programs of a study lower for GPUs and TPUs, without one here: what they hold, and where platforms differ."""

import ast
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import monitoring

import jaxft
from jaxft import execute, linear, regularisers
from jaxft.analysis import parameters
from jaxft.config import Study, from_dict
from jaxft.data.augment import Changes
from jaxft.executors import Executor
from jaxft.features import _make_outputs, _make_outputs_after
from jaxft.models import create_model
from jaxft.plan import make_plan
from jaxft.pooling import Look
from jaxft.study import example_images, example_lane
from jaxft.train import make_eval_step, make_moments_step, make_train_step
from jaxft.weights import _make_init, _make_init_head

PLATFORMS = ["cuda", "tpu"]  # of each program one module for both: jaxft makes no difference between them
EXECUTORS = {
    "in_turn": Executor(),
    "vmap": Executor("vmap", 2),
    "devices": Executor("devices", 16, 8),
    "pmap": Executor("pmap", 16, 8),
    "data_parallel": Executor("data_parallel", 1, 8),
}
FAMILIES = {"cifar_resnet8": 32, "squeezenet1_1": 64, "efficientnet_lite0": 32}
SINGULAR_VALUES = {"cusolver_gesvdj_ffi", "Qr", "Eigh", "ProductOfElementaryHouseholderReflectors"}

ALL_CHANGES = {
    "flip": True,
    "crop_padding_px": 2,
    "crop_scale_min": 0.5,
    "randaugment_ops": 2,
    "jitter_brightness": 0.2,
    "jitter_contrast": 0.2,
    "jitter_saturation": 0.2,
    "jitter_hue": 0.1,
    "erase_probability": 0.5,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "loss_weighting": "effective",
}
PROCEDURES = {
    "all changes of images": ALL_CHANGES,
    "all terms of the loss": {
        "init": "pretrained",
        "l2_sp": 0.1,
        "delta": 0.1,
        "bss": 0.1,
        "dropout": 0.1,
        "stochastic_depth": 0.1,
        "distillation": 0.5,
    },
    "low-rank factors": {"tune": "lora", "lora_rank": 2},
    "sharpness, parts, averages": {"sam_radius": 0.05, "accumulate": 2, "ema_decay": 0.9, "clip_norm": 1.0},
    "statistics": {"batch_norm": "recalibrated", "virtual_batch_size": 4},
    "a probe, then stages": {"probe_epochs": 1.0, "epochs": 3.0, "unfreeze_epochs": [1.0], "layer_decay": 0.5},
    "a probe by L-BFGS on views": {
        "probe_epochs": 9.0,
        "probe_optimizer": "lbfgs",
        "views": 2,
        "flip": True,
        "body_learning_rate": "frozen",
        "batch_norm": "frozen",
    },
    "ten crops": {"crop_px": 8, "test_crops": "ten"},
    "lamb": {"optimizer": "lamb", "schedule": "onecycle"},
}


@pytest.fixture
def on_an_accelerator(monkeypatch):
    """Makes jaxft trace programs as it does on an accelerator, and forget them afterwards."""
    caches = execute.make_steps, execute.make_run_steps, execute._make_eval, execute._make_moments, make_train_step
    caches += execute._make_init_states, execute._make_merge, make_eval_step, make_moments_step

    def forget():
        for cache in caches:
            cache.cache_clear()
        jax.clear_caches()

    forget()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    yield
    monkeypatch.undo()
    forget()


def planned(model="cifar_resnet8", size_px=12, procedure=None):
    """Returns the first group of a study of digits."""
    fields = {"epochs": 1.0, "batch_size": 8, "learning_rate": 0.05, "init": "random"} | (procedure or {})
    study = from_dict(
        Study,
        {
            "seeds": 1,
            "source": {"model": model}
            | ({"images": {"data": "digits", "train_per_class": 2}} if fields["init"] != "random" else {}),
            "target": {"data": "digits", "train_per_class": 4, "val_per_class": 2, "size_px": size_px},
            "procedure": fields,
        },
    )
    return study, make_plan(study).groups[0]


def programs_of(model="cifar_resnet8", size_px=12, procedure=None, executor=None):
    study, group = planned(model, size_px, procedure)
    lane, images = example_lane(group.trials[0]), example_images(group.trials[0], study.execution)
    yield from execute.compiled_programs(group.program, lane, images, executor or Executor())


def lowered(function, args, known_calls=(), double=True):
    """Returns the text of a program for both platforms, which calls no library but `known_calls`, and never the host.

    With `double` JAX's 64-bit mode is on, in which arrays without a dtype are float64: none has two dimensions.
    """
    jitted = function if hasattr(function, "trace") else jax.jit(function)  # pmap's is hidden in it
    with jax.enable_x64(double):
        text = jax.export.export(jitted, platforms=PLATFORMS)(*args).mlir_module()
    assert set(re.findall(r"custom_call @([\w.]+)", text)) <= {*known_calls, "Sharding"}
    assert "callback" not in text and "outfeed" not in text and "infeed" not in text
    products = re.findall(r".*stablehlo\.(?:dot_general|convolution).*f32.*", text)
    assert all("HIGHEST" in line for line in products), "one without a precision, which JAX rounds on accelerators"
    assert not re.search(r"tensor<\d+x[\dx]*\d+xf64>", text), "more than a number of each trial or image"
    return text


@pytest.mark.slow
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("model", FAMILIES)
def test_networks_of_three_families_lower_by_every_executor(model, executor, on_an_accelerator):
    names = []
    for name, function, args in programs_of(model, FAMILIES[model], executor=EXECUTORS[executor]):
        text = lowered(function, args)
        names.append(name)
        assert ("while" in text) >= (name == "train"), "a stretch of steps is a loop on the device"
    assert names == ["init", "train", "evaluate"]


@pytest.mark.slow
@pytest.mark.parametrize("procedure", PROCEDURES)
def test_every_kind_of_step_lowers(procedure, on_an_accelerator):
    names = set()
    for name, function, args in programs_of(procedure=PROCEDURES[procedure]):
        # In JAX's 64-bit mode Optax's line search has float64 of its own, and so has JAX's decomposition on a TPU.
        has_own = "L-BFGS" in procedure or procedure == "all terms of the loss"
        calls = SINGULAR_VALUES if procedure == "all terms of the loss" else ()
        lowered(function, args, calls, double=not has_own)
        names.add(name)
    assert {"init", "train", "evaluate"} <= names
    assert ("moments" in names) == (procedure == "statistics") and ("merge" in names) == (
        procedure == "low-rank factors"
    )


def other_programs():
    """Returns the programs of a study that no executor compiles: (function, arguments) by name."""
    model = create_model("cifar_resnet8", 3)
    arrays = jax.ShapeDtypeStruct
    images, rows = arrays((20, 12, 12, 3), jnp.uint8), arrays((8,), jnp.int32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 12, 12, 3))))
    preprocessing, views = model.preprocessing, Changes(flip=True)
    outputs = _make_outputs(model, preprocessing, "stage1/block1", views, ())
    both = Look("stage2/block1", "average"), Look("stage3/block1", "cross_layer", "stage2/block1")
    looks = _make_outputs(model, preprocessing, "stage3/block1", Changes(), both)
    after = _make_outputs_after(model, "stage2/block1", "pool")
    features, labels = arrays((20, 5), jnp.float32), arrays((20,), jnp.int32)
    fit_args = features, labels, arrays((20,), jnp.float32), arrays((3,), jnp.float32), arrays((), jnp.float32)
    kernel, runs = arrays((3, 3, 4, 6), jnp.float32), arrays((2, 3, 3, 4, 6), jnp.float32)
    sums = jax.eval_shape(lambda a, b: parameters.sums(a, b, (1,)), *[arrays((2, 6), jnp.float32)] * 2)
    probe = arrays((64, 3), jnp.float32), arrays((3,), jnp.float32)
    masked = arrays((8, 3, 3, 64), jnp.float32), arrays((8,), jnp.int32), arrays((64,), jnp.float32)
    return {
        "draw_all": (_make_init(model, 12), (arrays((2,), jnp.uint32),)),
        "draw_head": (_make_init_head(model, 12), (arrays((2,), jnp.uint32),)),
        "outputs": (outputs, (variables, images, rows, arrays((), jnp.int32), arrays((2,), jnp.uint32))),
        "outputs, looked at": (looks, (variables, images, rows, arrays((), jnp.int32), None)),
        "outputs_after": (after, (variables, arrays((8, 12, 12, 16), jnp.float32))),
        "fit_all": (jax.jit(functools.partial(linear._fit_all, "logistic", 3, 50)), fit_args),
        "fit_all, svm": (jax.jit(functools.partial(linear._fit_all, "svm", 3, 50)), fit_args),
        "nearest": (jax.jit(functools.partial(linear._nearest, "cosine", 3)), (features, features)),
        "of_leaf": (parameters._of_leaf, (kernel, runs)),
        "change": (parameters._change, (sums,)),
        "plus": (parameters._plus, (sums, sums)),
        "pairwise_distances": (parameters.pairwise_distances, ({"conv/kernel": runs, "conv/bias": runs},)),
        "where": (execute._where, (arrays((2,), bool), {"a": runs}, {"a": runs})),
        "masked_loss": (regularisers._make_masked_loss(model, "stage3/block1"), (variables, *probe, *masked)),
    }


def test_features_classifiers_and_analyses_lower(on_an_accelerator):
    for name, (function, args) in other_programs().items():
        lowered(function, args, double=not name.startswith(("fit_all", "draw")))


def defined_functions():
    """Returns the names of all functions of the package."""
    trees = [ast.parse(path.read_text()) for path in Path(jaxft.__file__).parent.rglob("*.py")]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


# As JAX names what it compiles, the programs that are lowered above.
LOWERED = {"init_state", "step", "stretch", "merged", "moments_step", "eval_step", "outputs", "outputs_after", "_where"}
LOWERED |= {"_fit_all", "_nearest", "_of_leaf", "_change", "plus", "pairwise_distances", "masked_loss"}
LOWERED |= {"draw_all", "draw_head"}


@pytest.mark.slow
def test_a_study_compiles_nothing_else(tmp_path):
    """By what JAX says that it compiles in studies of all kinds: its own operations, and functions that are lowered."""
    names = set()

    def heard(event, seconds, **labels):
        if event.endswith("/backend_compile_duration"):
            names.add(labels["fun_name"].removeprefix("jit(").removesuffix(")"))

    towards_the_source = {"delta": 0.1, "bss": 0.1, "distillation": 0.1, "batch_norm": "recalibrated"}
    frozen = {"probe_epochs": 1.0, "layer_rates": [["stem/.*", "frozen"]]}
    low_rank = {"tune": "lora", "lora_rank": 2, "head_init": "class_means"}
    readouts = [{"classifier": name} for name in ("logistic", "knn", "class_mean")]
    jax.clear_caches()
    monitoring.register_event_duration_secs_listener(heard)
    try:
        for i, procedure in enumerate((towards_the_source, frozen, low_rank, *readouts)):
            common = {} if "classifier" in procedure else {"batch_size": 8, "epochs": 1.0}
            fields = {
                "seeds": 2,
                "source": {"model": "cifar_resnet8", "images": {"data": "digits", "train_per_class": 2}},
                "target": {"data": "digits", "train_per_class": 4, "val_per_class": 2},
                "procedure": procedure | common,
            }
            jaxft.run_study(from_dict(Study, fields), tmp_path / str(i), quiet=True)
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
    assert "<lambda>" not in names
    jax_names = {*dir(jnp), *dir(jax.lax)}  # JAX compiles its own operations as `_mean`, too
    assert {name for name in names & defined_functions() if name.lstrip("_") not in jax_names} <= LOWERED
    assert LOWERED - names <= {"stretch"}, "each of them is compiled, but for what is one on accelerators alone"


def test_programs_differ_by_platform_in_a_few_places():
    """Where jaxft asks which platform it is on: docs/accelerators.md has the list, with reasons."""
    root = Path(jaxft.__file__).parent
    places = set()
    for path in root.rglob("*.py"):
        for function in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)):
            if any(isinstance(node, ast.Attribute) and node.attr == "default_backend" for node in ast.walk(function)):
                places.add(f"{path.relative_to(root).with_suffix('')}.{function.name}")
    of_programs = {
        "data/augment.over_images",
        "execute.eval_batch",
        "execute.loops_on_device",
        "gradients.in_parts",
        "gradients.whole",
        "nn.max_pool",
        "weights._jit_once",
    }
    of_choices = {
        "commands/finetune.make_candidates",
        "commands/study._check_deterministic",
        "commands/study._slow_convolutions",
        "devices.device_kind",
        "devices.device_name",
        "executors.candidates",
        "features._made_by",
        "jobs.work_key",
        "ops/convolution.implementation",
    }
    assert places == of_programs | of_choices
    page = (root.parent / "docs" / "accelerators.md").read_text()
    assert all(f"`{place}`" in page for place in of_programs)
