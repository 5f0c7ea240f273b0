"""What a trial and a study are: frozen dataclasses, read from an ml_collections config file.

A config file defines `get_config(arg=None)` and returns an `ml_collections.ConfigDict` (or a dict, or a
`Study`). Whatever it leaves out keeps its default; whatever it misspells is an error that says what is allowed.
Fields marked `traced` are only numbers to the compiled program: changing one never recompiles.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import itertools
import json
import math
import numbers
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

from jaxft.core.errors import UserError, did_you_mean

SCHEMA_VERSION = 3  # part of every digest: raised when a default changes, or the same fields mean another result
FROZEN: Literal["frozen"] = "frozen"
MAX_SEED = 2**32 - 1
LayerRate = float | Literal["frozen"]


def setting(default: Any, help: str, *, traced: bool = False, **limits: float) -> Any:
    """Returns a dataclass field with its help text and its limits (`at_least`, `above`, `at_most`, `below`)."""
    metadata = {"help": help, "traced": traced, "limits": limits}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Similarity:
    """What makes a class near to those of the target."""

    by: Literal["wup", "path", "features"] = setting(
        "wup", "Wu and Palmer's or the path similarity of names in WordNet, or the distance of class means of features"
    )
    model: str | None = setting(None, "network whose pooled features they are; none: the source's own architecture")
    weights: str | None = setting(None, "file of its pretrained weights, or package:NAME")


@dataclass(frozen=True)
class Images:
    """A set of labelled images, and how much of it is used."""

    data: str = setting(
        "digits", "'digits', tfds:NAME, or the path of an .npz file, a table, a folder or an archive (docs/data.md)"
    )
    domain: str | tuple[str, ...] | None = setting(None, "domains to keep, of images that have any; none: all")
    label: str | None = setting(None, "which labels, where images have several: a column, a feature, or 'coarse'")
    unreadable: Literal["fail", "skip"] = setting(
        "fail", "pictures that cannot be read, or whose class is spelt in several ways: an error, or left out and noted"
    )
    union: tuple[str, ...] = setting((), "further data, whose classes stand beside those of `data`: 'set/class'")
    classes: tuple[str, ...] | None = setting(None, "names of the classes to keep; none: all")
    num_classes: int | None = setting(None, "classes to keep, of these; none: all", at_least=2)
    class_choice: Literal["random", "nearest", "farthest"] = setting(
        "random", "which of them: drawn, or those of a source nearest to or farthest from the target's classes"
    )
    similarity: Similarity = Similarity()
    wordnet_depth: int | None = setting(
        None, "merge classes, once images are drawn, under what is above them at a depth of WordNet", at_least=0
    )
    synsets: str | None = setting(None, "CSV file with columns 'class' and 'synset' that corrects what names mean")
    size_px: int | None = setting(None, "side of the square images; none: the network's own", at_least=1)
    train_per_class: int | None = setting(None, "images a class to train on; none: all left over", at_least=1)
    num_images: int | None = setting(None, "images to train on in all, in place of so many a class", at_least=2)
    imbalance: float = setting(
        1.0,
        "most over fewest images a class to train on; the others fall from class to class by one factor",
        at_least=1,
    )
    val_per_class: int = setting(0, "images a class to select on, besides those to train on", at_least=0)
    val_fraction: float = setting(0.0, "share of each class to select on, one image at least", at_least=0, below=1)
    train_on_val: bool = setting(False, "train on the data's own validation part too, where there is a test part")
    test_fraction: float = setting(
        0.0, "share of each class to test on, where the data have no test part of their own", at_least=0, below=1
    )
    test_per_class: int | None = setting(
        None,
        "images a class to test on, drawn before all others; none: the data's test part, or all left over",
        at_least=1,
    )
    tested: bool = setting(True, "test at the end, on the images that are left for it; if not, nobody looks at them")
    label_noise: float = setting(0.0, "share of the training labels that another class replaces", at_least=0, at_most=1)
    grey: bool = setting(False, "take the colour away")
    shuffle_px: int | None = setting(None, "side of the blocks that images are cut into and shuffled", at_least=1)
    manifest: str | None = setting(None, "file of a split that was exported: which images have which part and label")


@dataclass(frozen=True)
class Procedure:
    """How a network is trained."""

    init: Literal["pretrained", "random", "matched"] = setting(
        "pretrained",
        "start from the source, from random weights, or from random ones with its leaves' means and deviations",
    )
    copied_units: int | str | None = setting(
        None,
        "how many units from the first on, or up to which, are the source's; above them init is random or matched",
        at_least=1,
    )
    copied: Literal["tuned", "frozen"] = setting("tuned", "whether the units train that are the source's")
    head_init: Literal["lecun", "zeros", "class_means"] = setting(
        "lecun", "weights of the new head: drawn (LeCun), zeros, or the classes' mean directions in feature space"
    )
    grow: Literal["none", "wider", "deeper"] = setting(
        "none", "new units beside the last stage, or a new layer on top of it, scaled to the old ones"
    )
    grown_features: int = setting(64, "how many of them", at_least=1)
    tune: Literal["all", "head", "bias", "batch_norm", "last_units", "lora"] = setting(
        "all", "what trains below the head, besides grown units; all else there is frozen"
    )
    tuned_units: int | str = setting(1, "of 'last_units' how many, or from which on", at_least=1)
    lora_rank: int = setting(4, "rank of the change that 'lora' makes of a kernel", at_least=1)
    lora_alpha: float = setting(4.0, "the change is times alpha / rank", traced=True, above=0)
    optimizer: Literal["sgd", "adam", "adamw", "lamb", "lion"] = setting(
        "sgd", "sgd and adam: as in PyTorch, decay in the gradient; adamw, lamb and lion: decoupled decay"
    )
    learning_rate: float = setting(0.01, "peak rate of the head, and of what has none of its own", traced=True, above=0)
    body_learning_rate: LayerRate | None = setting(
        None, "peak rate of everything below the head, or 'frozen'; none: as the head", traced=True, above=0
    )
    layer_rates: tuple[tuple[str, LayerRate], ...] = setting(
        (),
        "ordered rules (pattern, multiplier of learning_rate or 'frozen'), ahead of head and body",
        traced=True,
        above=0,
    )
    layer_decay: float = setting(
        1.0,
        "factor of the rate from each unit to the one below it, from the head down",
        traced=True,
        above=0,
        at_most=1,
    )
    momentum: float = setting(0.9, "momentum of sgd, first decay rate of the others", traced=True, at_least=0, below=1)
    nesterov: bool = setting(False, "Nesterov's momentum; not of lamb and lion")
    beta2: float = setting(0.999, "second decay rate of all but sgd (lion's is 0.99)", traced=True, at_least=0, below=1)
    weight_decay: float = setting(0.0, "decay of kernels (biases and norms have none)", traced=True, at_least=0)
    label_smoothing: float = setting(
        0.0, "share of the label spread over all classes", traced=True, at_least=0, below=1
    )
    epochs: float = setting(20.0, "passes over the training images; 0: nothing follows the probe", at_least=0)
    probe_epochs: float = setting(0.0, "passes that train the head alone, before all else (LP-FT)", at_least=0)
    probe_optimizer: Literal["same", "lbfgs"] = setting(
        "same",
        "of those passes; lbfgs: logistic regression, on all images and views at once, an iteration for a pass",
    )
    probe_weight_decay: float | None = setting(
        None, "decay of the head's kernel in those passes; none: weight_decay", traced=True, at_least=0
    )
    probe_learning_rate: float | None = setting(
        None, "peak rate of those passes; none: learning_rate", traced=True, above=0
    )
    batch_size: int = setting(32, "images a step", at_least=1)
    schedule: Literal["constant", "cosine", "linear", "step", "onecycle"] = setting(
        "cosine", "shape of the rate over a phase; onecycle: up to the peak and down, the warm-up its rise"
    )
    warmup_epochs: float = setting(0.0, "passes over which the rate rises from zero", at_least=0)
    decay_epochs: tuple[float, ...] = setting((), "when 'step' lowers the rate, in passes", above=0)
    decay_factor: float = setting(0.1, "what 'step' multiplies the rate by", traced=True, above=0, at_most=1)
    effective_learning_rate: float | None = setting(
        None,
        "learning_rate / (1 - momentum) of sgd, in its place; the body's and the probe's rate are such then too",
        traced=True,
        above=0,
    )
    steps: int | None = setting(None, "length in steps, in the place of epochs", at_least=1)
    warmup_steps: int = setting(0, "steps over which the rate rises, in the place of warmup_epochs", at_least=0)
    decay_steps: tuple[int, ...] = setting((), "when 'step' lowers the rate, in the place of decay_epochs", at_least=1)
    unfreeze_epochs: tuple[float, ...] = setting(
        (),
        "gradual unfreezing: the passes after which the next stage below the head trains too; the last lets in all",
        above=0,
    )
    clip_norm: float = setting(0.0, "largest norm of the gradient of all that trains; 0: any", traced=True, at_least=0)
    accumulate: int = setting(
        1, "parts that a batch is worked through in; batch norm and BSS see a part at a time", at_least=1
    )
    sam_radius: float = setting(
        0.0, "radius of sharpness-aware minimisation, two gradients a step; 0: none", traced=True, at_least=0
    )
    ema_decay: float = setting(
        0.0, "of the moving average of weights that is evaluated and kept; 0: none", traced=True, at_least=0, below=1
    )
    batch_norm: Literal["tracked", "frozen", "recalibrated"] = setting(
        "tracked",
        "statistics above the frozen prefix; recalibrated: tracked, and at the end those of all training images",
    )
    batch_norm_affine: Literal["tuned", "frozen"] = setting(
        "tuned", "scales and shifts of batch norm; frozen: a rule behind layer_rates, ahead of head and body"
    )
    virtual_batch_size: int | None = setting(
        None, "images that batch norm normalises together in training; none: the whole batch", at_least=1
    )
    l2_sp: float = setting(
        0.0,
        "L2-SP: strength of the pull of what trains below the head to the source",
        traced=True,
        at_least=0,
    )
    l2_sp_rules: tuple[tuple[str, float], ...] = setting(
        (), "ordered rules (pattern, strength) of that pull, ahead of l2_sp", traced=True, at_least=0
    )
    l2_sp_head: float = setting(0.0, "L2-SP: strength of the pull of the head to zero", traced=True, at_least=0)
    delta: float = setting(
        0.0,
        "DELTA: strength of the pull of feature maps to the source's, channel by channel",
        traced=True,
        at_least=0,
    )
    bss: float = setting(
        0.0, "BSS: strength of the penalty on a batch's smallest singular values of features", traced=True, at_least=0
    )
    bss_count: int = setting(1, "how many of them", at_least=1)
    distillation: float = setting(
        0.0, "LwF: strength of keeping what the source's own head says of the target images", traced=True, at_least=0
    )
    distillation_temperature: float = setting(2.0, "what its logits are divided by", traced=True, above=0)
    dropout: float = setting(
        0.0, "share of the head's inputs set to zero in training", traced=True, at_least=0, below=1
    )
    stochastic_depth: float = setting(
        0.0,
        "share of the batches that skip the last residual block; of those below it linearly fewer",
        traced=True,
        at_least=0,
        below=1,
    )
    crop_padding_px: int = setting(0, "zero pixels added around an image before a random crop", at_least=0)
    crop_scale_min: float = setting(
        1.0, "least share of the area that a random resized crop keeps; 1: no such crop", above=0, at_most=1
    )
    crop_px: int | None = setting(
        None,
        "side of what the network sees of larger images: a random part, in evaluation the centre; none: all",
        at_least=1,
    )
    flip: bool = setting(False, "mirror images at random")
    randaugment_ops: int = setting(0, "operations of RandAugment on each image", at_least=0)
    randaugment_magnitude: float = setting(9.0, "how strong they are, of 30", at_least=0, at_most=30)
    jitter_brightness: float = setting(0.0, "largest random change of the brightness, as a share", at_least=0)
    jitter_contrast: float = setting(0.0, "the same of the contrast", at_least=0)
    jitter_saturation: float = setting(0.0, "the same of the saturation", at_least=0)
    jitter_hue: float = setting(0.0, "largest random turn of the hue, of the whole circle", at_least=0, at_most=0.5)
    erase_probability: float = setting(
        0.0, "share of images that a random rectangle is erased of", at_least=0, at_most=1
    )
    mixup_alpha: float = setting(
        0.0, "mix the images of a batch in pairs, with shares from Beta(alpha, alpha); 0: not", traced=True, at_least=0
    )
    cutmix_alpha: float = setting(
        0.0, "paste rectangles between them; beside mixup either, batch by batch; 0: not", traced=True, at_least=0
    )
    sampling: Literal["uniform", "balanced"] = setting(
        "uniform", "how batches are drawn; balanced: every class as often, images of small ones again and again"
    )
    loss_weighting: Literal["none", "inverse", "effective"] = setting(
        "none", "weight of a class in the loss: by the inverse of its training images, or of their effective number"
    )
    loss_beta: float = setting(
        0.999, "of the effective number (1 - beta^n) / (1 - beta)", traced=True, at_least=0, below=1
    )
    views: int = setting(
        0, "pictures that each training image stands for, itself and random ones; 0: a new one each time", at_least=0
    )
    select: Literal["best", "last"] = setting("best", "weights kept: the best epoch on validation, or the last")
    test_crops: Literal["centre", "ten"] = setting(
        "centre",
        "what is seen of larger test images; ten: corners and centre, mirrored too, their probabilities averaged",
    )
    classifier: Literal["network", "logistic", "svm", "knn", "class_mean"] = setting(
        "network", "what is trained: the network, or a classifier of features that it has of images as it starts"
    )
    tap: str | None = setting(None, "stage or unit whose output those features are; none: the one below the head")
    pooling: Literal["average", "max", "pyramid", "cross_layer", "bilinear", "covariance"] = setting(
        "average", "what is made of its map: one number a channel, or more (docs/factors.md)"
    )
    cross_tap: str | None = setting(
        None, "stage or unit whose map 'cross_layer' weighs by that of tap; none: the unit below it"
    )
    feature_scaling: Literal["none", "l2", "standard"] = setting(
        "l2", "l2: each image's features at length 1; standard: each feature with mean 0 and deviation 1 in training"
    )
    strengths: tuple[float, ...] = setting(
        (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "of the regulariser of 'logistic' and 'svm', 1 / (C n); validation chooses between several",
        above=0,
    )
    neighbours: tuple[int, ...] = setting(
        (1, 3, 5, 10, 20), "that 'knn' asks, of as many as there are; validation chooses between several", at_least=1
    )
    metric: Literal["cosine", "euclidean"] = setting("cosine", "what is near, to 'knn' and 'class_mean'")

    @property
    def given_rate(self) -> float:
        """Returns the head's rate as it is given: a learning rate, or an effective one."""
        return self.learning_rate if self.effective_learning_rate is None else self.effective_learning_rate

    @property
    def rate_scale(self) -> float:
        """Returns what rates as they are given are multiplied by to be learning rates."""
        return 1.0 if self.effective_learning_rate is None else 1 - self.momentum

    @property
    def effective_rate(self) -> float:
        """Returns the head's effective learning rate at the peak: that of sgd over 1 - momentum.

        A gradient moves the weights by so much in all (Li et al. 2020, "Rethinking the hyperparameters for
        fine-tuning", section 3.3). The other optimisers average gradients, which leaves their rate as it is.
        """
        rate = self.given_rate * self.rate_scale
        return rate / (1 - self.momentum) if self.optimizer == "sgd" else rate


@dataclass(frozen=True)
class Source:
    """What is fine-tuned: an architecture, and where its pretrained weights come from."""

    model: str = setting("cifar_resnet8", "architecture; `jaxft models` lists them")
    weights: str | None = setting(None, "file of pretrained weights, or package:NAME for that of an installed package")
    images: Images | None = setting(None, "images to pretrain on, as the study's first phase, where no file is given")
    procedure: Procedure = setting(Procedure(init="random"), "how to pretrain on `images`")
    epoch: int | None = setting(
        None, "after which pass over `images` its weights are taken; none: those selected in the end", at_least=1
    )


@dataclass(frozen=True)
class Streams:
    """Seed of each stream of random numbers; none: the trial's own seed. A pinned stream does not vary."""

    source: int | None = setting(0, "everything random in pretraining", at_least=0, at_most=MAX_SEED)
    split: int | None = setting(None, "which images are trained, selected and tested on", at_least=0, at_most=MAX_SEED)
    init: int | None = setting(None, "new weights: the head, or a whole random network", at_least=0, at_most=MAX_SEED)
    order: int | None = setting(None, "order of the training images", at_least=0, at_most=MAX_SEED)
    augment: int | None = setting(None, "random changes of the images", at_least=0, at_most=MAX_SEED)
    fold: int | None = setting(
        0,
        "which share of val_fraction is selected on: none, beside a pinned split, makes seeds a cross-validation",
        at_least=0,
        at_most=MAX_SEED,
    )


@dataclass(frozen=True)
class Execution:
    """How the trials are run. `jaxft.config.identity` says which of it is part of a trial's identity."""

    executor: Literal["auto", "in_turn", "workers", "vmap", "devices", "pmap", "data_parallel"] = setting(
        "auto", "how trials share the machine; auto: on a CPU by the work there is, else the fastest of those timed"
    )
    width: int = setting(0, "most trials side by side under one vmap; 0: as many as are fast, and fit", at_least=0)
    workers: int = setting(0, "most worker processes, for 'workers'; 0: one a core", at_least=0)
    memory_bytes: float = setting(0.0, "memory for trials side by side; 0: most of what there is", at_least=0)
    keep_weights: Literal["none", "best_seed", "all"] = setting("all", "final weights kept, of each setting")
    device_data_bytes: float = setting(
        4e9, "memory of a device for images; a set that takes more is streamed, with the extra 'stream'", at_least=0
    )
    checkpoint_seconds: float = setting(300.0, "how often the state of a running trial is saved", at_least=0)
    eval_batch_size: int = setting(
        0, "most images a step of evaluation; 0: 256, or 32 on a CPU, whose caches hold no more", at_least=0
    )
    feature_cache_bytes: float = setting(
        4e9, "memory for what frozen units say of the images, computed once", at_least=0
    )
    feature_disk_bytes: float = setting(2e10, "the same on disk, for later runs too; 0: none", at_least=0)
    cpu_convolution: Literal["auto", "onednn", "xla"] = setting(
        "auto", "what computes convolutions on a CPU; auto: oneDNN where it can be used, else XLA"
    )
    precision: Literal["float32", "tf32", "bfloat16"] = setting(
        "float32",
        "numbers in which networks compute: true float32; float32 with tf32 products, which are faster on NVIDIA GPUs; "
        "bfloat16, whose parameters, statistics, classifier and loss stay float32",
    )
    remat: bool = setting(False, "compute the insides of blocks again for the gradient, which takes less memory")
    deterministic: bool = setting(
        False, "a run can be repeated bit for bit on the same kind of machine; set by the option --deterministic"
    )


@dataclass(frozen=True)
class Trial:
    """One fine-tuning: what decides its result, and nothing else."""

    source: Source = Source()
    target: Images = Images()
    procedure: Procedure = Procedure()
    streams: Streams = Streams()
    seed: int = 0

    def stream_seed(self, stream: str) -> int:
        """Returns the seed of the named stream: its pin, or the trial's seed."""
        pinned = getattr(self.streams, stream)
        return self.seed if pinned is None else pinned


Block = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Study:
    """A set of trials: a trial, the factors that vary in it, and the seeds."""

    title: str = setting("", "heading of the report")
    source: Source = Source()
    target: Images = Images()
    procedure: Procedure = Procedure()
    streams: Streams = Streams()
    seeds: tuple[int, ...] = setting((0, 1, 2), "seeds of every setting; a number n means 0 to n-1")
    factors: tuple[Block, ...] = setting(
        (), "product blocks {dotted field: levels}, whose union is the study's settings"
    )
    select_over: tuple[str, ...] = setting(
        (), "factors whose level is chosen on validation, for each seed and each combination of the others"
    )
    execution: Execution = Execution()

    def trials(self) -> tuple[Trial, ...]:
        """Returns every trial once: the union of the product blocks, each with every seed."""
        base = {name: to_dict(getattr(self, name)) for name in ("source", "target", "procedure", "streams")}
        found: dict[Trial, None] = {}
        for block in self.factors or ({},):
            for levels in itertools.product(*block.values()):
                fields = json.loads(json.dumps(base))
                for name, level in zip(block, levels):
                    _set(fields, name, level)
                setting_trial = from_dict(Trial, fields)
                found.update({dataclasses.replace(setting_trial, seed=seed): None for seed in self.seeds})
        return tuple(found)

    def factor_names(self) -> tuple[str, ...]:
        """Returns the dotted names of all factors, in the order in which the blocks name them."""
        return tuple(dict.fromkeys(name for block in self.factors for name in block))


# --- from and to plain values -----------------------------------------------------------------------------------


def to_dict(value: Any) -> Any:
    """Returns a config as nested dicts and lists, ready for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_dict(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_dict(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return value.tolist()
    if isinstance(value, list | tuple | range):
        return [to_dict(item) for item in value]
    return value


def non_default(value: Any, default: Any = None) -> dict[str, Any]:
    """Returns the fields of a config that differ from their defaults, as nested dicts."""
    default = type(value)() if default is None else default
    found = {}
    for field in dataclasses.fields(value):
        mine, usual = getattr(value, field.name), getattr(default, field.name)
        if mine == usual:
            continue
        if dataclasses.is_dataclass(mine):
            found[field.name] = non_default(mine, usual)
        else:
            found[field.name] = to_dict(mine)
    return found


def from_dict(kind: type, fields: Mapping[str, Any], where: str = "", base: Any = None) -> Any:
    """Returns the dataclass `kind` built from nested dicts; every value is checked against its field.

    What the dicts leave out is as in `base`, by default the defaults.

    Raises a `UserError` that names the field, its value and what is allowed.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}
    hints = _hints(kind)
    values: dict[str, Any] = {}
    for name, value in fields.items():
        dotted = f"{where}.{name}" if where else name
        if name not in known:
            place = f"{where!r}" if where else "the config"
            raise UserError(
                f"unknown config field {dotted!r}{did_you_mean(name, known)}; {place} has {', '.join(known)}."
            )
        if kind is Study and name == "seeds":
            values[name] = _seeds(value)
        elif kind is Study and name == "factors":
            values[name] = _blocks(value)
        else:
            usual = getattr(base, name, known[name].default)
            values[name] = _checked(value, hints[name], dotted, known[name].metadata.get("limits", {}), usual)
    config = kind(**values) if base is None else dataclasses.replace(base, **values)
    _check_whole(config, where)
    return config


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def digest(identity: Mapping[str, Any]) -> str:
    """Returns 16 hexadecimal digits that name what `identity` says, the same in every process and version."""
    text = json.dumps({"schema": SCHEMA_VERSION, **identity}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def get_at(config: Any, dotted: str) -> Any:
    """Returns the value of a dotted field, such as `procedure.learning_rate`; None below a field that is None."""
    for name in dotted.split("."):
        config = getattr(config, name, None)
    return config


def fields_of(config: Any, where: str = "") -> Iterable[tuple[str, Any, dataclasses.Field[Any]]]:
    """Yields every field of a config, nested ones by their dotted names: (name, value, field)."""
    for field in dataclasses.fields(config):
        name = f"{where}.{field.name}" if where else field.name
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, name)
        else:
            yield name, value, field


# --- the config file and its overrides --------------------------------------------------------------------------


@dataclass(frozen=True)
class ConfigFile:
    """A study, and where it was read from: the file's path, its docstring and the overrides."""

    study: Study
    path: str = ""
    docstring: str = ""
    overrides: tuple[str, ...] = ()


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigFile:
    """Reads `path.py` or `path.py:arg`, applies overrides such as `procedure.learning_rate=0.01`.

    Raises a `UserError` where the file is missing, is no config file, or any field is wrong.
    """
    path_text, _, arg = spec.partition(".py:")
    path = Path(path_text if spec.endswith(path_text) and not arg else f"{path_text}.py")
    if not path.is_file():
        raise UserError(f"there is no config file {str(path)!r}.")
    module_spec = importlib.util.spec_from_file_location(f"jaxft_config_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"the config file {str(path)!r} is not a Python file.")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        if get_config is None:
            raise UserError(f"the config file {str(path)!r} defines no get_config(arg).")
        config = get_config(arg) if arg else get_config()
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the config file {str(path)!r} fails: {type(error).__name__}: {reason}.") from error
    fields = _plain(config)
    for override in overrides:
        name, _, text = override.partition("=")
        blocks = _blocks(fields.get("factors", ()))
        if any(_overlap(name, factor) for block in blocks for factor in block):
            raise UserError(f"{name} is a factor of this study, so it cannot be overridden; override 'factors'.")
        _set(fields, name, _literal(text))
    study = from_dict(Study, fields)
    if not study.title:
        study = dataclasses.replace(study, title=path.stem.replace("_", " "))
    return ConfigFile(study, str(path), (module.__doc__ or "").strip(), tuple(overrides))


def study_data(arg: str, config_path: str, *names: str) -> tuple[str, list[str]]:
    """Returns the size that a config's argument asks for ('', 'small', 'full'), and the paths of its data files.

    The argument is a size, a folder, or both: 'small,FOLDER'. Without one the folder is shared/data beside the clone
    that the config lies in. The size 'full' is that of a publication, whose data are those of TFDS: it has no paths.

    Raises a `UserError` where the folder lacks one of the files `names`.
    """
    first, _, rest = arg.partition(",")
    size = first if first in ("small", "full") else ""
    if size == "full":
        return size, []
    config = Path(config_path).resolve()
    folder = Path((rest if size else arg) or config.parent.parent.parent / "shared" / "data")
    for name in names:
        if not (folder / name).is_file():
            raise UserError(
                f"the study's data are not all in {str(folder)!r}: there is no {name}; "
                f"name their folder, --config={config.parent.name}/{config.name}:FOLDER."
            )
    return size, [str(folder / name) for name in names]


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def as_config_file(config: Any) -> ConfigFile:
    """Returns the config file for whatever a caller may hand over: a path, a `Study`, a ConfigDict or a dict."""
    if isinstance(config, ConfigFile):
        return config
    if isinstance(config, str | Path):
        return load_config(str(config))
    study = from_dict(Study, _plain(config))
    return ConfigFile(study if study.title else dataclasses.replace(study, title="untitled study"))


def _plain(config: Any) -> dict[str, Any]:
    if isinstance(config, Study):
        return to_dict(config)
    if hasattr(config, "to_dict"):  # ml_collections.ConfigDict
        config = config.to_dict()
    if not isinstance(config, Mapping):
        raise UserError(f"a config is a ConfigDict, a dict or a Study, not a {type(config).__name__}.")
    return to_dict(config)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return {"none": None, "true": True, "false": False}.get(text.lower(), text)


def _set(fields: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        if fields.get(parent) is None:
            fields[parent] = {}
        fields = fields[parent]
        if not isinstance(fields, dict):
            raise UserError(f"unknown config field {dotted!r}: {parent!r} has no fields of its own.")
    fields[last] = value


# --- checks -----------------------------------------------------------------------------------------------------


def _checked(value: Any, hint: Any, where: str, limits: Mapping[str, float], usual: Any) -> Any:
    """Returns `value` as the type that the field declares, or raises an error that says what is allowed."""
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if isinstance(value, Mapping):
            return from_dict(hint, value, where, usual)  # type: ignore[arg-type]
        raise UserError(f"config field {where!r} is {value!r}, but holds fields of its own.")
    options = _options(hint)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return _checked(value, option, where, limits, usual)
        if option is str and int in options and isinstance(value, numbers.Real):
            continue  # a number that is no right one is no name
        try:
            return _as_option(value, option, limits)
        except (TypeError, ValueError):
            continue
    raise UserError(f"config field {where!r} is {value!r}; {_allowed(hint, limits, value)}.")


def _options(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _as_option(value: Any, option: Any, limits: Mapping[str, float]) -> Any:
    origin = typing.get_origin(option)
    if option is type(None):
        if value is None:
            return None
    elif origin is Literal:
        if isinstance(value, str) and value in typing.get_args(option):
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple):
            inner = typing.get_args(option)
            if inner[-1] is Ellipsis:
                return tuple(_first_option(item, inner[0], limits) for item in value)
            if len(inner) == len(value):
                return tuple(_first_option(item, kind, limits) for item, kind in zip(value, inner))
    elif option is bool or option is str:
        if isinstance(value, option):
            return value
        if option is str and isinstance(value, numbers.Real) and not isinstance(value, bool):
            return str(value)  # an override such as --config.title=2024
    elif option in (int, float) and isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = option(value) if math.isfinite(value) else math.nan
        if number == value and math.isfinite(number) and _within(number, limits):
            return number
    raise TypeError


def _first_option(value: Any, hint: Any, limits: Mapping[str, float]) -> Any:
    for option in _options(hint):
        try:
            return _as_option(value, option, limits)
        except (TypeError, ValueError):
            continue
    raise TypeError


def _within(number: float, limits: Mapping[str, float]) -> bool:
    return (
        number >= limits.get("at_least", -math.inf)
        and number > limits.get("above", -math.inf)
        and number <= limits.get("at_most", math.inf)
        and number < limits.get("below", math.inf)
    )


def _allowed(hint: Any, limits: Mapping[str, float], value: Any) -> str:
    words: list[str] = []
    choices: list[str] = []
    numeric = " and ".join(f"{name.replace('_', ' ')} {limit:.10g}" for name, limit in limits.items())
    for option in _options(hint):
        if option is type(None):
            words.append("none")
        elif typing.get_origin(option) is Literal:
            choices += typing.get_args(option)
            words += [repr(choice) for choice in typing.get_args(option)]
        elif typing.get_origin(option) is tuple:
            words.append("a list of " + _inside(typing.get_args(option)))
        elif option in (int, float):
            words.append({int: "a whole number", float: "a number"}[option] + (f" {numeric}" if numeric else ""))
        else:
            words.append({bool: "True or False", str: "a text"}.get(option, "a group of fields"))
    guess = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"allowed: {' or '.join(words)}{guess}"


def _inside(inner: tuple[Any, ...]) -> str:
    if typing.get_origin(inner[0]) is tuple:
        choices = typing.get_args(typing.get_args(inner[0])[1])
        return "pairs (pattern, multiplier or 'frozen')" if choices else "pairs (pattern, number)"
    return {str: "texts", int: "whole numbers", float: "numbers"}.get(inner[0], "values")


def _seeds(value: Any) -> tuple[int, ...]:
    seeds = range(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(seeds, range | list | tuple) or not all(
        isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= MAX_SEED for seed in seeds
    ):
        raise UserError(
            f"config field 'seeds' is {value!r}; allowed: a number of seeds, or a list of seeds from 0 to {MAX_SEED}."
        )
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"config field 'seeds' is {value!r}; it needs one seed at least, and none twice.")
    return tuple(seeds)


def _blocks(value: Any) -> tuple[Block, ...]:
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(block, Mapping) for block in value):
        raise UserError(
            f"config field 'factors' is {value!r}; allowed: a list of blocks "
            "{'procedure.learning_rate': [0.01, 0.1], ...}."
        )
    blocks = []
    for block in value:
        for name, levels in block.items():
            if str(name).split(".")[0] not in ("source", "target", "procedure", "streams"):
                guess = did_you_mean(str(name), [n for n, _, _ in fields_of(Trial()) if "." in n])
                raise UserError(f"factor {name!r} is not a field of a trial{guess}.")
            if not isinstance(levels, list | tuple) or not levels:
                raise UserError(f"factor {name!r} is {levels!r}; allowed: a list of one level or more.")
        _check_apart(block)
        blocks.append({name: tuple(levels) for name, levels in block.items()})
    return tuple(blocks)


def _check_apart(block: Mapping[str, Any]) -> None:
    """Checks that no factor of a block is a group of fields, which would set back its siblings, or holds another."""
    groups = {name.rpartition(".")[0] for name, _, _ in fields_of(Trial())} | {"source.procedure"}
    for name in block:
        if name in groups:
            raise UserError(
                f"factor {name!r} is a group of fields; vary its fields, such as '{name}.{_first_of(name)}'."
            )
        inside = next((other for other in block if other.startswith(f"{name}.")), None)
        if inside is not None:
            raise UserError(f"factors {name!r} and {inside!r} overlap; keep one of them in a block.")


def _first_of(group: str) -> str:
    return dataclasses.fields(get_at(Trial(), group))[0].name


def _check_whole(config: Any, where: str) -> None:
    """Checks what concerns several fields at once."""
    if isinstance(config, Procedure):
        dotted = where or "procedure"
        _check_schedule(config, dotted)
        _check_changes(config, dotted)
        _check_start(config, dotted)
        _check_regularisers(config, dotted)
        _check_classifier(config, dotted)
    elif isinstance(config, Images):
        if config.val_fraction and config.val_per_class:
            dotted = where or "target"
            raise UserError(f"'{dotted}.val_fraction' and '{dotted}.val_per_class' are both given; keep one of them.")
        if config.train_on_val and (config.val_fraction or config.val_per_class):
            dotted = where or "target"
            raise UserError(f"'{dotted}.train_on_val' leaves no validation part to select on; ask for no images of it.")
        _check_draws(config, where or "target")
    elif isinstance(config, Source):
        if config.procedure.init != "random":
            raise UserError("'source.procedure.init' is 'pretrained'; a source is trained from 'random' weights.")
        if config.procedure.classifier != "network":
            name = config.procedure.classifier
            raise UserError(f"'source.procedure.classifier' is {name!r}; a source is a network that is trained.")
        if config.weights is not None and config.images is not None:
            raise UserError("'source.weights' and 'source.images' are both given; pretrained weights have one origin.")
        if config.procedure.grow != "none":
            raise UserError(
                "'source.procedure.grow' would make another network of the source; a grown one from scratch is a "
                "model, such as 'resnetsmall8+wider64'."
            )
        if config.epoch is not None and config.images is None:
            raise UserError(
                "'source.epoch' is for sources that are trained here; give 'source.images', or another file."
            )
        if config.epoch is not None and config.procedure.batch_norm == "recalibrated":
            raise UserError(
                "'source.epoch' is of a source whose statistics are 'recalibrated' at its end alone; make "
                "'source.procedure.batch_norm' 'tracked'."
            )
    elif isinstance(config, Trial):
        if config.procedure.init != "random" and config.source.weights is None and config.source.images is None:
            raise UserError(
                f"'procedure.init' is {config.procedure.init!r}, but there is nothing to start from; give "
                "'source.weights' (a file) or 'source.images' (images to pretrain on), or choose init 'random'."
            )
    elif isinstance(config, Study):
        trials = config.trials()  # every level of every factor is checked before the first step
        _check_selection(config, trials)


def _check_schedule(procedure: Procedure, where: str) -> None:
    """Checks the rate, its schedule, and the optimiser; what needs the number of images is checked with the phases."""
    usual, epochs = Procedure(), procedure.epochs
    for ours, other in (
        ("effective_learning_rate", "learning_rate"),
        ("steps", "epochs"),
        ("warmup_steps", "warmup_epochs"),
        ("decay_steps", "decay_epochs"),
    ):
        if all(getattr(procedure, name) != getattr(usual, name) for name in (ours, other)):
            raise UserError(f"'{where}.{ours}' and '{where}.{other}' are both given; keep one of them.")
    if procedure.schedule == "step" and not procedure.decay_epochs and not procedure.decay_steps:
        raise UserError(f"config field '{where}.decay_epochs' is empty; the schedule 'step' needs it, or decay_steps.")
    if procedure.steps is None:
        late = [at for at in procedure.decay_epochs if at >= epochs]
        if procedure.schedule == "step" and late:
            raise UserError(
                f"config field '{where}.decay_epochs' has {late[0]:g}, which is not before the end, {epochs:g}."
            )
        if procedure.classifier == "network" and not epochs and not procedure.probe_epochs:
            raise UserError(f"config field '{where}.epochs' is 0, and so is probe_epochs: nothing would be trained.")
        if procedure.warmup_epochs and procedure.warmup_epochs >= epochs:
            raise UserError(
                f"config field '{where}.warmup_epochs' is {procedure.warmup_epochs:g}; "
                f"it must be below epochs, {epochs:g}."
            )
    moments = procedure.unfreeze_epochs
    if moments and not epochs and procedure.steps is None:
        raise UserError(f"config field '{where}.unfreeze_epochs' is {list(moments)}, but epochs is 0: none is let in.")
    if any(later <= earlier for earlier, later in itertools.pairwise(moments)):
        raise UserError(
            f"config field '{where}.unfreeze_epochs' is {list(moments)}; each must be after the one before."
        )
    if procedure.effective_learning_rate is not None and procedure.optimizer != "sgd":
        raise UserError(
            f"config field '{where}.effective_learning_rate' is for 'sgd': the rate of {procedure.optimizer!r} does "
            "not grow with its momentum; give learning_rate."
        )
    if procedure.nesterov and procedure.optimizer in ("lamb", "lion"):
        raise UserError(f"config field '{where}.nesterov' is True, which {procedure.optimizer!r} does not have.")
    if procedure.batch_size % procedure.accumulate:
        raise UserError(
            f"config field '{where}.accumulate' is {procedure.accumulate}, which does not divide batch_size, "
            f"{procedure.batch_size}."
        )


DRAWN = (
    *("classes", "num_classes", "class_choice", "similarity", "wordnet_depth", "synsets", "train_per_class"),
    *("num_images", "imbalance", "val_per_class", "val_fraction", "train_on_val", "test_fraction", "test_per_class"),
    *("tested", "label_noise"),
)  # fields of `Images` that decide what is drawn, and that a manifest takes the place of


def _check_draws(images: Images, dotted: str) -> None:
    if images.manifest is not None:
        given = next((name for name in DRAWN if getattr(images, name) != getattr(Images(), name)), None)
        if given is not None:
            raise UserError(
                f"'{dotted}.manifest' says which images are used with which labels; leave '{dotted}.{given}' out."
            )
    for one, other in (("num_images", "train_per_class"), ("test_per_class", "test_fraction")):
        if getattr(images, one) and getattr(images, other):
            raise UserError(f"'{dotted}.{one}' and '{dotted}.{other}' are both given; keep one of them.")
    if images.class_choice != "random" and images.num_classes is None:
        raise UserError(f"'{dotted}.class_choice' is {images.class_choice!r}; '{dotted}.num_classes' says how many.")
    if images.class_choice != "random" and dotted == "target":
        raise UserError(
            f"'target.class_choice' is {images.class_choice!r}, which is for 'source.images'; a target's are 'random'."
        )
    if images.similarity.by == "features" and images.similarity.weights is None:
        raise UserError(f"'{dotted}.similarity.by' is 'features'; '{dotted}.similarity.weights' says of which network.")


def _check_start(procedure: Procedure, where: str) -> None:
    """Checks that what is copied from the source, and what of it trains, go together."""
    if procedure.copied_units is not None and procedure.init == "random":
        raise UserError(
            f"config field '{where}.copied_units' is {procedure.copied_units!r}, but '{where}.init' is 'random', which "
            "copies nothing; give init 'pretrained' (the units above are random) or 'matched'."
        )
    if procedure.copied == "frozen" and (procedure.init == "random" or not _copies(procedure)):
        raise UserError(
            f"config field '{where}.copied' is 'frozen', but with init {procedure.init!r} nothing is copied; "
            f"give '{where}.copied_units'."
        )


def _copies(procedure: Procedure) -> bool:
    """Tells whether anything is copied from the source."""
    return procedure.init == "pretrained" or procedure.copied_units is not None


def _check_changes(procedure: Procedure, where: str) -> None:
    """Checks that the images' random changes, and how batches are drawn, go with the views and the probe."""
    changes = (
        procedure.flip
        or procedure.crop_padding_px
        or procedure.crop_scale_min < 1
        or procedure.crop_px
        or procedure.randaugment_ops
        or procedure.jitter_brightness
        or procedure.jitter_contrast
        or procedure.jitter_saturation
        or procedure.jitter_hue
        or procedure.erase_probability
    )
    by_lbfgs = procedure.probe_epochs and procedure.probe_optimizer == "lbfgs"
    if by_lbfgs and changes and not procedure.views:
        raise UserError(
            f"config field '{where}.probe_optimizer' is 'lbfgs', which needs the same images at every iteration; "
            "give views, or no random changes."
        )
    if procedure.views and not changes:
        raise UserError(
            f"config field '{where}.views' is {procedure.views}, but nothing makes them differ; "
            "give flip, crop_scale_min or another random change."
        )
    for name in ("mixup_alpha", "cutmix_alpha"):
        alpha = getattr(procedure, name)
        if alpha and (procedure.views or by_lbfgs):
            other = "views" if procedure.views else "probe_optimizer"
            raise UserError(
                f"config field '{where}.{name}' is {alpha:g}, but images are mixed anew in every batch, and "
                f"'{where}.{other}' {getattr(procedure, other)!r} needs the same ones again; keep one of them."
            )
    if by_lbfgs and procedure.sampling == "balanced":
        raise UserError(
            f"config field '{where}.sampling' is 'balanced', but a probe by 'lbfgs' is over all images at once; "
            "give loss_weighting 'inverse' instead."
        )
    if procedure.test_crops == "ten" and procedure.crop_px is None:
        raise UserError(
            f"config field '{where}.test_crops' is 'ten', which are parts of larger images; "
            f"give '{where}.crop_px', below the images' size_px."
        )


TOWARDS_SOURCE = ("l2_sp", "l2_sp_rules", "delta", "distillation")  # fields of `Procedure` that need a source


def _check_regularisers(procedure: Procedure, where: str) -> None:
    """Checks the batch-norm policy and the regularisers."""
    size = procedure.virtual_batch_size
    if size is not None and procedure.batch_norm == "frozen":
        raise UserError(
            f"config field '{where}.virtual_batch_size' is {size}, but '{where}.batch_norm' is 'frozen': no batch's "
            "statistics are used; leave one of them out."
        )
    at_a_time = procedure.batch_size // procedure.accumulate
    if size is not None and at_a_time % size:
        over = f" / '{where}.accumulate'" * (procedure.accumulate > 1)
        raise UserError(
            f"config field '{where}.virtual_batch_size' is {size}; it must divide '{where}.batch_size'{over}, "
            f"{at_a_time}."
        )
    given = next((name for name in TOWARDS_SOURCE if getattr(procedure, name)), None)
    if given is not None and procedure.init == "random":
        raise UserError(
            f"config field '{where}.{given}' pulls towards a source, but '{where}.init' is 'random'; leave it out."
        )
    anew = "init" if procedure.init == "matched" else "copied_units" if procedure.copied_units is not None else None
    if procedure.delta and anew is not None:
        raise UserError(
            f"config field '{where}.delta' compares a network's maps with the source's, but '{where}.{anew}' is "
            f"{getattr(procedure, anew)!r}, which starts units anew; leave one of them out."
        )
    compared = next((name for name in ("delta", "distillation") if getattr(procedure, name)), None)
    if compared is not None and procedure.grow != "none":
        raise UserError(
            f"config field '{where}.{compared}' compares the network's layers with the source's, but "
            f"'{where}.grow' gives it others; leave one of them out."
        )
    if procedure.bss and procedure.bss_count > at_a_time:
        raise UserError(
            f"config field '{where}.bss_count' is {procedure.bss_count}; {at_a_time} images, which are seen at a time, "
            "have fewer singular values."
        )
    rules = ("l2_sp_head", "bss", "dropout", "stochastic_depth")
    acting = next((name for name in (*TOWARDS_SOURCE, *rules) if getattr(procedure, name)), None)
    if acting is not None and not (procedure.epochs or procedure.steps):
        raise UserError(
            f"config field '{where}.{acting}' acts after the probe of the head, but '{where}.epochs' is 0; "
            "give epochs, or leave it out."
        )


def _check_classifier(procedure: Procedure, where: str) -> None:
    """Checks that a classifier of features has what it needs, and nothing that it has no use for."""
    network = procedure.classifier == "network"
    given = next((n for n in ("tap", "pooling") if getattr(procedure, n) != getattr(Procedure(), n)), None)
    if network and given is not None:
        raise UserError(
            f"config field '{where}.{given}' is {getattr(procedure, given)!r}, which is for classifiers of features; "
            f"give '{where}.classifier' one, such as 'logistic'."
        )
    if not network and procedure.test_crops == "ten":
        raise UserError(
            f"config field '{where}.test_crops' is 'ten', which is for the network; "
            f"the classifier {procedure.classifier!r} sees the centre."
        )
    for name in ("strengths", "neighbours"):
        if not getattr(procedure, name):
            raise UserError(f"config field '{where}.{name}' is empty; give one value or more.")


def _check_selection(study: Study, trials: Sequence[Trial]) -> None:
    names = study.factor_names()
    for name in study.select_over:
        if name not in names:
            raise UserError(
                f"config field 'select_over' names {name!r}{did_you_mean(name, names)}; "
                f"it is no factor of this study, which has {', '.join(names) or 'none'}."
            )
    if len(set(study.select_over)) != len(study.select_over):
        raise UserError(f"config field 'select_over' is {list(study.select_over)}; it names a factor twice.")
    selects = [t.target.val_per_class or t.target.val_fraction or t.target.manifest for t in trials]
    if study.select_over and not all(selects):
        raise UserError(
            "'select_over' chooses on validation, but 'target.val_per_class' is 0; give it images, or 'val_fraction'."
        )
