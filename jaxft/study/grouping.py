"""Groups: trials that share a compiled program, images and frozen leaves."""

from typing import Any

from jaxft.core.digests import short_digest
from jaxft.models.structure import expected_shapes
from jaxft.study.planned import PlannedTrial
from jaxft.training.adapters import is_adapter
from jaxft.training.hparams import make_hparams


def group_key(trial: PlannedTrial) -> str:
    """Returns the key of the group of a trial.

    Trials of a group have the same program, the same images, and the same initial values of all leaves that any phase
    freezes. Classifiers of features have the same images and the same initial network.
    """
    import jax

    if trial.feature_classifier is not None:
        network = (
            trial.model.architecture,
            trial.model.precision,
            trial.feature_classifier.preprocessing,
            trial.feature_classifier.crop_px,
        )
        text = repr(("features", network, trial.images.fingerprint, trial.initial_values_key(trial.backbone)))
        return short_digest(text)
    stats = [n.partition("/")[2] for n in expected_shapes(trial.model, trial.size_px) if n.startswith("batch_stats/")]
    changing = [{*phase.trainable, *phase.tracked} for phase in trial.program.phases]
    frozen = [n for n in (*trial.layers, *stats) if not all(n in names for names in changing) and not is_adapter(n)]
    in_backbone = [name for name in frozen if not trial.model.in_head(name)]
    start = trial.initial_values_key(in_backbone)
    head: Any = None
    if len(in_backbone) < len(frozen):
        head_initialization = trial.trial.training.initialization.head
        head = (
            trial.digest
            if head_initialization == "class_means"
            else (head_initialization, trial.trial.stream_seed("init"))
        )
    views = trial.trial.stream_seed("augment") if trial.trial.training.augmentation.views else None
    source_digest = [trial.source.digest] * any(phase.source_needs for phase in trial.program.phases)
    # Trials are stacked, so their hyperparameters need the same tree structure and their LoRA factors the same shapes.
    hparams_structure = jax.tree.structure(make_hparams(trial.trial.training, trial.layers))
    adapter_shapes = [trial.shapes[f"params/{name}"] for name in trial.layers if is_adapter(name)]
    text = repr(
        (trial.program, trial.images.fingerprint, start, head, views, *source_digest, hparams_structure, adapter_shapes)
    )
    return short_digest(text)
