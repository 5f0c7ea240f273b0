"""The section `execution`: how trials run on the machine."""

from dataclasses import dataclass
from typing import Literal

from jaxft.config.fields import MAX_BATCH, MAX_STEPS, MAX_TRIALS, setting
from jaxft.core.registries import EXECUTORS, TRACKERS

MAX_WORKERS = 1024


@dataclass(frozen=True)
class Execution:
    """How trials run on the machine. Of these fields, only `precision` is part of the identity of a trial."""

    executor: str = setting(
        "auto",
        "executor: how trials share the machine; 'auto' chooses by the amount of work on a CPU, and by timing on "
        "other devices",
        registry=EXECUTORS,
    )
    trackers: tuple[str, ...] = setting(
        (), "trackers that receive the events of the study, in addition to events.jsonl", registry=TRACKERS
    )
    width: int = setting(
        0,
        "maximum number of trials that run together on a device; 0 limits them by memory and speed",
        at_least=0,
        at_most=MAX_TRIALS,
    )
    workers: int = setting(
        0,
        "maximum number of worker processes for the executor 'workers'; 0 starts one per core",
        at_least=0,
        at_most=MAX_WORKERS,
    )
    memory_bytes: float = setting(
        0.0,
        "device memory for trials that run together, in bytes; 0 means three quarters of the device memory, or on a "
        "CPU half of the system memory",
        at_least=0,
    )
    keep_weights: Literal["none", "best_seed", "all"] = setting(
        "all",
        "final weights that are kept: none; for each setting, those of the seed with the best validation accuracy; "
        "or all",
    )
    snapshot_steps: tuple[int, ...] = setting(
        (),
        "steps of training, counted over all phases, after which the weights of each trial are stored for the analysis "
        "'trajectory'",
        at_least=1,
        below=MAX_STEPS,
    )
    device_data_bytes: float = setting(
        4e9,
        "device memory for the images of a set, in bytes; larger sets are streamed, which needs the extra 'stream'",
        at_least=0,
    )
    checkpoint_seconds: float = setting(
        300.0, "time between two checkpoints of a running trial, in seconds", at_least=0
    )
    eval_batch_size: int = setting(
        0,
        "maximum number of images in an evaluation batch; 0 means 32 on a CPU, 256 on other devices",
        at_least=0,
        at_most=MAX_BATCH,
    )
    feature_cache_bytes: float = setting(4e9, "memory for cached activations of frozen layers, in bytes", at_least=0)
    feature_disk_bytes: float = setting(
        2e10,
        "disk space in the cache folder for activations of frozen layers, in bytes; 0 stores none",
        at_least=0,
    )
    cpu_convolution: Literal["auto", "onednn", "xla"] = setting(
        "auto", "library for convolutions on a CPU; 'auto' is oneDNN if available, otherwise XLA"
    )
    precision: Literal["float32", "tf32", "bfloat16"] = setting(
        "float32",
        "precision of the network: float32; float32 with tf32 products, faster on NVIDIA GPUs; or bfloat16 "
        "activations, with float32 parameters, statistics, classifier and loss",
    )
    remat: bool = setting(
        False, "rematerialization: recompute activations inside blocks in the backward pass, to save memory"
    )
    deterministic: bool = setting(
        False, "whether runs on the same kind of machine are bit-identical; set by the option --deterministic"
    )
