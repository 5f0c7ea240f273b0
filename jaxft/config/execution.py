"""The section `execution`: how the trials are run."""

from dataclasses import dataclass
from typing import Literal

from jaxft.config.fields import setting
from jaxft.core.registries import EXECUTORS, TRACKERS


@dataclass(frozen=True)
class Execution:
    """How the trials are run. `jaxft.config.identity` says which of it is part of a trial's identity."""

    executor: str = setting(
        "auto",
        "how trials share the machine; 'auto' chooses by the amount of work on a CPU, and elsewhere the fastest of "
        "those that it times",
        registry=EXECUTORS,
    )
    trackers: tuple[str, ...] = setting(
        (), "trackers that receive the study's events, besides the file events.jsonl", registry=TRACKERS
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
