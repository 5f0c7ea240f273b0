"""Final weights in the store: what is written, and which the policy keeps."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxft import config as cfg
from jaxft.core import paths
from jaxft.store.records import Store
from jaxft.study.planned import Plan, PlannedTrial
from jaxft.weights.files import Manifest


def nested_variables(params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> dict[str, Any]:
    return {"params": paths.unflatten(params), "batch_stats": paths.unflatten(batch_stats)}


def final_manifest(trial: PlannedTrial) -> Manifest:
    return Manifest(
        f"{trial.digest}.safetensors",
        "",
        trial.model.architecture,
        trial.program.phases[-1].preprocessing,
        trial.images.class_names,
        f"fine-tuned by jaxft, trial {trial.digest}",
        resize_px=trial.resize_px,
    )


def drop_weights(plan: Plan, store: Store, trials: Sequence[PlannedTrial]) -> None:
    """Drops the weights that the policy does not keep, of the settings that `trials` belong to.

    'best_seed' keeps, of each setting, those of the seed with the best validation accuracy, the first of equals.
    """
    policy = plan.study.execution.keep_weights
    if policy == "none":
        for trial in trials:
            store.drop_weights(trial.digest)
    if policy != "best_seed":
        return
    touched = {dataclasses.replace(trial.trial, seed=0) for trial in trials}
    settings: dict[cfg.Trial, list[tuple[float, str]]] = {}
    for trial in plan.trials:
        setting = dataclasses.replace(trial.trial, seed=0)
        record = store.read("trials", trial.digest) if setting in touched else None
        if record is not None and record["status"] == "done":
            settings.setdefault(setting, []).append((record["val_accuracy"] or 0.0, trial.digest))
    for seeds in settings.values():
        best = max(seeds, key=lambda seed: seed[0])
        for _, digest in seeds:
            if digest != best[1]:
                store.drop_weights(digest)
