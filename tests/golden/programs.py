"""The programs of studies by name, with the shapes of their arguments: for digests, for lowering, for one step."""

import functools

import jax
import jax.numpy as jnp

from jaxft.analysis import linear, parameters
from jaxft.analysis.measures import MEASURES
from jaxft.analysis.sums import change_of
from jaxft.config import Study, from_dict
from jaxft.data.augmentation.augment import Augmentations
from jaxft.features.feature_spec import FeatureSpec
from jaxft.features.prefix import make_outputs, make_outputs_after
from jaxft.models import create_model
from jaxft.models.initialization import make_init, make_init_head
from jaxft.study.chunk import epochs, memory
from jaxft.study.examples import example_images, example_lane
from jaxft.study.executors import DataParallel, Devices, Pmap, Sequential, Vmap
from jaxft.study.plan import make_plan
from jaxft.training.regularizers import channel_attention

EXECUTORS = {
    "sequential": Sequential(),
    "vmap": Vmap(2),
    "devices": Devices(16, 8),
    "pmap": Pmap(16, 8),
    "data_parallel": DataParallel(1, 8),
}
FAMILIES = {"cifar_resnet8": 32, "squeezenet1_1": 64, "toy_lite": 32}

ALL_AUGMENTATIONS = {
    "augmentation.flip.enabled": True,
    "augmentation.crop.padding_px": 2,
    "augmentation.crop.scale_min": 0.5,
    "augmentation.randaugment.num_operations": 2,
    "augmentation.color_jitter.brightness": 0.2,
    "augmentation.color_jitter.contrast": 0.2,
    "augmentation.color_jitter.saturation": 0.2,
    "augmentation.color_jitter.hue": 0.1,
    "augmentation.erasing.probability": 0.5,
    "augmentation.mixup.alpha": 0.2,
    "augmentation.cutmix.alpha": 1.0,
    "loss.class_weights": "effective",
}
PROCEDURES = {
    "all changes of images": ALL_AUGMENTATIONS,
    "all terms of the loss": {
        "initialization.start": "pretrained",
        "regularization.l2_sp.strength": 0.1,
        "regularization.delta.strength": 0.1,
        "regularization.bss.strength": 0.1,
        "regularization.dropout.rate": 0.1,
        "regularization.stochastic_depth.rate": 0.1,
        "regularization.distillation.strength": 0.5,
    },
    "low-rank factors": {"layers.tune": "lora", "layers.lora_rank": 2},
    "sharpness, parts, averages": {
        "optimizer.sam_radius": 0.05,
        "batches.accumulate": 2,
        "optimizer.ema_decay": 0.9,
        "optimizer.clip_norm": 1.0,
    },
    "statistics": {"batch_norm.statistics": "recalibrated", "batch_norm.virtual_batch_size": 4},
    "a probe, then stages": {
        "linear_probe.epochs": 1.0,
        "schedule.epochs": 3.0,
        "layers.unfreeze_epochs": [1.0],
        "layers.decay": 0.5,
    },
    "a probe by L-BFGS on views": {
        "linear_probe.epochs": 9.0,
        "linear_probe.optimizer": "lbfgs",
        "augmentation.views": 2,
        "augmentation.flip.enabled": True,
        "layers.backbone_learning_rate": "frozen",
        "batch_norm.statistics": "frozen",
    },
    "ten crops": {"augmentation.crop.size_px": 8, "selection.test_crops": "ten"},
    "lamb": {"optimizer.name": "lamb", "schedule.shape": "onecycle"},
}


def planned(model="toy", size_px=12, training=None):
    """Returns the first group of a study of digits."""
    fields = {
        "schedule.epochs": 1.0,
        "batches.size": 8,
        "optimizer.learning_rate": 0.05,
        "initialization.start": "random",
    } | (training or {})
    study = from_dict(
        Study,
        {
            "seeds": 1,
            "source": {"model": model}
            | (
                {"images": {"data": "digits", "train_per_class": 2}}
                if fields["initialization.start"] != "random"
                else {}
            ),
            "target": {"data": "digits", "train_per_class": 4, "val_per_class": 2, "size_px": size_px},
            "training": fields,
        },
    )
    return study, make_plan(study).groups[0]


def programs_of(model="toy", size_px=12, training=None, executor=None):
    study, group = planned(model, size_px, training)
    lane, images = example_lane(group.trials[0]), example_images(group.trials[0], study.execution)
    yield from memory.compiled_programs(group.program, lane, images, executor or Sequential())


def other_programs():
    """Returns the programs of a study that no executor compiles: (function, arguments) by name."""
    model = create_model("cifar_resnet8", 3)
    arrays = jax.ShapeDtypeStruct
    images, rows = arrays((20, 12, 12, 3), jnp.uint8), arrays((8,), jnp.int32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 12, 12, 3))))
    preprocessing, views = model.preprocessing, Augmentations.of({"flip.enabled": True})
    outputs = make_outputs(model, preprocessing, "stage1/block1", views, ())
    both = FeatureSpec("stage2/block1", "average"), FeatureSpec("stage3/block1", "cross_layer", "stage2/block1")
    pooled = make_outputs(model, preprocessing, "stage3/block1", Augmentations(), both)
    after = make_outputs_after(model, "stage1/block1", "pool")
    features, labels = arrays((20, 5), jnp.float32), arrays((20,), jnp.int32)
    fit_args = features, labels, arrays((20,), jnp.float32), arrays((3,), jnp.float32), arrays((), jnp.float32)
    kernel, runs = arrays((3, 3, 4, 6), jnp.float32), arrays((2, 3, 3, 4, 6), jnp.float32)
    sums = jax.eval_shape(lambda a, b: parameters.sums(a, b, (1,)), *[arrays((2, 6), jnp.float32)] * 2)
    probe = arrays((64, 3), jnp.float32), arrays((3,), jnp.float32)
    masked = arrays((8, 3, 3, 64), jnp.float32), arrays((8,), jnp.int32), arrays((64,), jnp.float32)
    return {
        "draw_all": (make_init(model, 12), (arrays((2,), jnp.uint32),)),
        "draw_head": (make_init_head(model, 12), (arrays((2,), jnp.uint32),)),
        "outputs": (outputs, (variables, images, rows, arrays((), jnp.int32), arrays((2,), jnp.uint32))),
        "outputs, looked at": (pooled, (variables, images, rows, arrays((), jnp.int32), None)),
        "outputs_after": (after, (variables, arrays((8, 12, 12, 16), jnp.float32))),
        "fit_all": (jax.jit(functools.partial(linear._fit_all, "logistic", 3, 50)), fit_args),
        "fit_all, svm": (jax.jit(functools.partial(linear._fit_all, "svm", 3, 50)), fit_args),
        "nearest": (jax.jit(functools.partial(linear._nearest, "cosine", 3)), (features, features)),
        "of_leaf": (parameters._of_leaf, (kernel, runs)),
        "of_layer": (parameters._of_layer, ([kernel, arrays((6,), jnp.float32)], [runs, arrays((2, 6), jnp.float32)])),
        "change": (change_of, (sums, tuple(MEASURES))),
        "plus": (parameters._plus, (sums, sums)),
        "pairwise_distances": (parameters.pairwise_distances, ({"conv/kernel": runs, "conv/bias": runs},)),
        "where": (epochs._where, (arrays((2,), bool), {"a": runs}, {"a": runs})),
        "masked_loss": (channel_attention.make_masked_loss(model, "stage3/block1"), (variables, *probe, *masked)),
    }
