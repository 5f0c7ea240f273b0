"""Which trials can share a compiled program and its frozen leaves."""

from typing import Any

from jaxft.core.digests import short_digest
from jaxft.models.structure import expected_shapes
from jaxft.study.planned import PlannedTrial
from jaxft.training.adapters import is_adapter
from jaxft.training.hparams import make_hparams


def group_key(trial: PlannedTrial) -> str:
    """Returns what trials share that run side by side: program, images, and the start of all that any phase freezes.

    Classifiers of features share the network as it starts.
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
        how = trial.trial.training.initialization.head
        head = trial.digest if how == "class_means" else (how, trial.trial.stream_seed("init"))
    views = trial.trial.stream_seed("augment") if trial.trial.training.augmentation.views else None
    towards = [trial.source.digest] * any(phase.source_needs for phase in trial.program.phases)
    # What is stacked must be alike: which numbers there are, also of what cannot act, and the sizes of changes.
    numbers = jax.tree.structure(make_hparams(trial.trial.training, trial.layers))
    sizes = [trial.shapes[f"params/{name}"] for name in trial.layers if is_adapter(name)]
    text = repr((trial.program, trial.images.fingerprint, start, head, views, *towards, numbers, sizes))
    return short_digest(text)
