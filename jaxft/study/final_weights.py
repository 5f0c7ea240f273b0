"""Final weights in the store: their variables and manifests, and the policy that decides which are kept."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxft import config as cfg
from jaxft.core import paths
from jaxft.models import Preprocessing
from jaxft.store.records import Store
from jaxft.study.planned import Plan, PlannedTrial
from jaxft.weights import Manifest


def nested_variables(params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {'params': ..., 'batch_stats': ...}, nested as in Flax, from flat dicts of arrays of any shape."""
    return {"params": paths.unflatten(params), "batch_stats": paths.unflatten(batch_stats)}


def source_manifest(source: PlannedTrial) -> Manifest:
    """Returns the manifest of the weights of a source network that jaxft trained."""
    return _manifest(source, source.program.phases[0].preprocessing, f"trained by jaxft, source {source.digest}")


def final_manifest(trial: PlannedTrial) -> Manifest:
    """Returns the manifest of the final weights of a trial."""
    return _manifest(trial, trial.program.phases[-1].preprocessing, f"fine-tuned by jaxft, trial {trial.digest}")


def _manifest(trial: PlannedTrial, preprocessing: Preprocessing, origin: str) -> Manifest:
    return Manifest(
        f"{trial.digest}.safetensors",
        "",
        trial.model.architecture,
        preprocessing,
        trial.images.class_names,
        origin,
        resize_px=trial.resize_px,
    )


def drop_weights(plan: Plan, store: Store, trials: Sequence[PlannedTrial]) -> None:
    """Deletes the weights that `execution.keep_weights` does not keep, for the settings that `trials` belong to.

    'best_seed' keeps, for each setting, the weights of the seed with the highest validation accuracy; the first seed
    wins a tie.
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
