"""Compares weight files: parameters layer by layer, filter by filter, and predictions."""

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from jaxft.analysis.comparison import Comparison
from jaxft.core.paths import layer_of
from jaxft.recipes.compare.activations import compare_activations
from jaxft.recipes.compare.networks import Networks, Weights, open_networks
from jaxft.recipes.compare.predictions import compare_predictions

if TYPE_CHECKING:
    import pandas as pd

    from jaxft.analysis.sums import Change

MOST_FILTERS = 20
TOTAL = "total"
TO_TYPICAL = "change to typical norm"


def compare(
    *locations: str | os.PathLike[str],
    model: str | None = None,
    data: Iterable[str | os.PathLike[str]] | str | os.PathLike[str] = (),
) -> Comparison:
    """Returns the differences between weights of one network: of parameters, and with images, of what it computes.

    The first weights are the reference, such as the pretrained network. If jaxft does not know the network, tensors are
    compared by their names in the files. Parameters that not all files have with equal shapes, such as a new head, are
    left out, with a note.

    Args:
      locations: two or more weight files of any format, published names, `package:NAME`, or `DIR:TRIAL` for the final
        weights of a trial of the study in the work directory DIR.
      model: the name of the network. If None, the files determine it.
      data: image files, folders or archives for a comparison of activations and predictions. Images in folders that
        are named after classes have labels.

    Raises:
      UserError: a file cannot be read, two files contain different networks, or with images, jaxft does not know the
        network.

    Example:
      >>> comparison = jaxft.compare("pretrained.safetensors", "seed0.safetensors", "seed1.safetensors")
      >>> comparison.changes.query("level == 'layer' and measure == 'relative_l2'")
    """
    import pandas as pd

    networks = open_networks(locations, model)
    reference = networks.load(0)
    tables, filters = [], []
    for i, label in enumerate(networks.labels[1:], 1):
        changes, most_changed = _changes(reference, networks.load(i), networks.filter_axis)
        tables.append(changes.assign(network=label))
        filters.append(most_changed.assign(network=label))
    notes, agreement, predictions, activations = networks.notes, None, None, None
    pictures = [data] if isinstance(data, str | os.PathLike) else list(data)
    if pictures:
        agreement, predictions, more = compare_predictions(networks, pictures)
        activations = compare_activations(networks, pictures)
        notes += more
    return Comparison(
        labels=networks.labels,
        model=networks.model,
        num_values=sum(array.size for array in reference.params.values()),
        changes=pd.concat(tables, ignore_index=True)[["network", "level", "name", "measure", "value"]],
        filters=pd.concat(filters, ignore_index=True)[["network", "leaf", "filter", "value"]],
        pairs=_pairs(networks, reference),
        agreement=agreement,
        predictions=predictions,
        activations=activations,
        notes=notes,
    )


def _changes(reference: Weights, other: Weights, filter_axis: int) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Returns the table of changes and the filters that changed most, without the column `network`."""
    import jax

    from jaxft.analysis import batch_norm, filters, frames, parameters, spectra

    before, after = reference.params, other.params
    by_level: dict[str, Any] = dict(jax.device_get(parameters.changes(before, after, filter_axis=filter_axis)))
    of_filters = {name: _to_typical(by_level["leaf"][name], change) for name, change in by_level.pop("filter").items()}
    most_changed = filters.most_changed(of_filters, MOST_FILTERS, TO_TYPICAL).drop(columns="run")
    spectrum = jax.device_get(spectra.spectra(before, after, 1, filter_axis=filter_axis))
    for name, kernel in spectrum.items():
        of_kernel = {"stable_rank": kernel.stable_rank, "top_energy": kernel.energy[0]}
        by_level["leaf"][name] = dict(by_level["leaf"][name]) | of_kernel
    layers = dict.fromkeys(map(layer_of, before))  # in the order of the forward pass; JAX sorts names
    shifts = batch_norm.rms_shifts(
        batch_norm.batch_norm_shifts({**before, **reference.batch_stats}, {**after, **other.batch_stats})
    )
    by_level = {
        "total": {TOTAL: parameters.total_change(before, after)},
        "layer": {layer: by_level["layer"][layer] for layer in layers},
        "leaf": {name: by_level["leaf"][name] for name in before},
        "batch_norm": {layer: shifts[path] for layer in layers if (path := layer.replace(".", "/")) in shifts},
    }
    in_order = {
        level: {name: jax.device_get(values) for name, values in by_name.items()} for level, by_name in by_level.items()
    }
    return frames.change_frame(in_order).drop(columns="run"), most_changed


def _to_typical(of_leaf: "Change", of_filters: "Change") -> "Change":
    """Returns the change of each filter relative to the root mean square of ||w0|| over the filters of its kernel.

    A change relative to the filter itself would be largest for filters that are almost zero.
    """
    import numpy as np

    from jaxft.analysis.sums import Change

    share = of_filters["l2"] / np.maximum(of_leaf["l2"], np.finfo(np.float32).tiny)
    return Change({TO_TYPICAL: share * np.sqrt(len(share)) * of_leaf["relative_l2"]})


def _pairs(networks: Networks, reference: Weights) -> "pd.DataFrame":
    """Returns the differences between all pairs of networks without the reference."""
    import pandas as pd

    from jaxft.analysis import frames
    from jaxft.analysis.pairs import streamed_pairs

    columns = ["first", "second", "name", "measure", "value"]
    others = range(1, len(networks.labels))
    if len(others) < 2:
        return pd.DataFrame(columns=columns)
    loaders = [_loader(networks, i) for i in others]
    measures_of_layers = streamed_pairs(loaders, {"reference": dict(reference.params)})
    matrices = {
        name: {m: v for m, v in measures.items() if v.ndim == 2} for name, measures in measures_of_layers.items()
    }
    table = frames.pair_frame(matrices)
    return table.assign(**{side: _labeled(table[side], networks.labels[1:]) for side in ("first", "second")})[columns]


def _loader(networks: Networks, index: int) -> Any:
    return lambda: dict(networks.load(index).params)


def _labeled(numbers: "pd.Series[Any]", labels: Sequence[str]) -> list[str]:
    return [labels[number] for number in numbers]
