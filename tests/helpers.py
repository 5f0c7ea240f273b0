"""What tests share, such as a network of a thousand parameters for all in which the network does not matter.

`toy_lite` has every kind of layer of EfficientNet-Lite in three blocks, where those are what matters.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxft.config import Images, Source, Study, as_config_file, to_dict
from jaxft.core import events, paths
from jaxft.models.families.cifar_resnet import IMAGENET_32, CifarResNet, Stage, Stem
from jaxft.models.families.efficientnet import EfficientNetLite, Shape
from jaxft.models.layers import Head, Pool
from jaxft.models.network import Extent, Family, Tap
from jaxft.models.registry import register_family
from jaxft.models.structure import expected_shapes
from jaxft.store.records import Store
from jaxft.store.sealed import seal
from jaxft.study.plan import make_plan
from jaxft.study.run import run_plan
from jaxft.study.services import make_services
from jaxft.tracking.lines import describe


class Toy(CifarResNet):
    """A residual network of two stages with 4 and 8 channels and a block each, for images of 8 px.

    It has 1,343 parameters with three classes, and all that larger families have: batch norms, a shortcut that changes
    the shape, a pool, a head, a port table. Worker processes do not know it.
    """

    def layers(self):
        stages = [Stage(4, 1, 1, False, True, name="stage1"), Stage(8, 2, 1, False, True, name="stage2")]
        return [Stem(4, name="stem"), *stages, Pool(None, name="pool"), Head(self.num_classes, name="head")]

    @property
    def architecture(self):
        return "toy"

    @property
    def blocks(self):
        return ("stem", "stage1/block1", "stage2/block1", "pool", "head")

    @property
    def taps(self):
        stem = Extent().after(3)
        first = stem.after(3).after(3)
        second = first.after(3, 2).after(3)
        extents = {"stem": ("stem", stem), "stage1": ("stage1/block1", first), "stage2": ("stage2/block1", second)}
        return tuple(Tap(name, block, *extent) for name, (block, extent) in extents.items())

    @property
    def preprocessing(self):
        return dataclasses.replace(IMAGENET_32, size_px=8)


class ToyLite(EfficientNetLite):
    """The layers of EfficientNet-Lite in three blocks: with and without expansion, of both kernels, with a shortcut."""

    shapes: tuple[Shape, ...] = (Shape(1, 3, 1, 1, 16), Shape(2, 5, 2, 6, 24))

    @property
    def architecture(self):
        return "toy_lite"


# Without names they are in no list of models.
register_family(Family("toy", (), "for tests", lambda num_classes: Toy(num_classes=num_classes)))
register_family(Family("toy_lite", (), "for tests", lambda num_classes: ToyLite(num_classes=num_classes)))


class RecordedEvents(list):
    """A listener that keeps the events; its lines are those that people see."""

    def __call__(self, event):
        self.append(event)

    def of(self, kind):
        return [event for event in self if isinstance(event, kind)]

    @property
    def lines(self):
        return list(map(describe, self))


def counted_run(workdir, study, shard=(0, 1)):
    """Returns (trials done, sources trained, failed) after running a study, or a shard of it, in a directory."""
    plan, store, recorded_events = make_plan(study), Store.create(workdir), RecordedEvents()
    store.write_plan(plan.record(as_config_file(study)))
    failed = run_plan(plan, store, make_services(study.execution, recorded_events), shard)
    return len(recorded_events.of(events.TrialFinished)), len(recorded_events.of(events.SourceTrained)), failed


def write_study(workdir, factors, accuracy, num_images=400, select_over=()):
    """Returns the store of a study that has the given test accuracies, without training.

    Args:
      workdir: the new work directory.
      factors: names of the factors.
      accuracy: test accuracy of each seed by levels, {(level of each factor): [seeds]}; None is a diverged trial, and
        'failed' a failed one. The validation accuracy is the same.
      num_images: number of validation images and of test images.
      select_over: factors that are selected on validation.
    """
    store = Store.create(workdir)
    num_seeds = max(map(len, accuracy.values()))
    study = Study(
        source=Source(images=Images(classes=("0", "1"))),
        seeds=tuple(range(num_seeds)),
        factors=({name: tuple(dict.fromkeys(column)) for name, column in zip(factors, zip(*accuracy))},),
        select_over=select_over,
    )
    settings = [dict(zip(factors, levels)) for levels in accuracy]
    trials = [
        {"trial": f"{setting:08x}{seed:08x}", "setting": setting, "factors": settings[setting], "seed": seed}
        for setting, values in enumerate(accuracy.values())
        for seed in range(len(values))
    ]
    store.write_plan(
        {
            "title": "Study", "docstring": "", "config": to_dict(study), "changed": {}, "config_path": "study.py",
            "factors": list(factors), "settings": settings, "layers": ["head"], "chance": 0.1, "uneven": False,
            "varied": ["split", "init"], "source": {"trials": []}, "trials": trials,
        }
    )  # fmt: skip
    for trial, value in zip(trials, (value for values in accuracy.values() for value in values)):
        if value == "failed":
            store.write_failure(trial["trial"], {"status": "failed", "error": "out of memory"})
            continue
        record = {
            "status": "diverged" if value is None else "done", "val_accuracy": value, "test_accuracy": value,
            "selected_epoch": 1, "seconds": 1.0, "executor": "sequential", "width": 1, "relative_change": 0.5,
            "changes": {"head": {"relative_l2": 0.5}}, "images": {"train": 10, "val": num_images, "test": num_images},
        }  # fmt: skip
        curve = np.array([np.nan if value is None else value])
        curves = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
        store.write("trials", trial["trial"], record, {"epoch": np.ones(1)} | dict.fromkeys(curves, curve))
    return store


def edit_record(store, name, change):
    """Replaces the record in the file `name` by `change(record)`, with a digest that matches."""
    record, arrays_sha256 = store.read_sealed(name)
    (store.workdir / name).write_bytes(seal(name, change(record), arrays_sha256))


def draw_variables(model, size_px, seed=1):
    """Returns variables of `model` that keep signals at their size, with statistics away from 0 and 1.

    They are drawn by NumPy: JAX compiles seconds for its own.
    """
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        if name.endswith("/kernel"):
            return rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        return rng.uniform(0.5, 1.5, shape) if name.endswith(("/scale", "/var")) else rng.normal(0, 0.1, shape)

    leaves = {
        name: jnp.asarray(draw(name, shape), jnp.float32) for name, shape in expected_shapes(model, size_px).items()
    }
    return paths.unflatten(leaves)
