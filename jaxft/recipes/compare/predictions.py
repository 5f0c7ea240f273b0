"""Comparison of the predictions of networks for the same images."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxft.core.errors import UserError
from jaxft.core.text import plural, some_of
from jaxft.recipes.compare.networks import Networks
from jaxft.recipes.load import LoadedNetwork, load
from jaxft.recipes.predict import find_pictures, predict_members

if TYPE_CHECKING:
    import pandas as pd

MOST_NAMED = 3


def compare_predictions(
    networks: Networks, pictures: Sequence[str | os.PathLike[str]]
) -> "tuple[pd.DataFrame | None, pd.DataFrame | None, tuple[str, ...]]":
    """Returns (agreement, predictions, notes) of networks for images; without equal classes, only notes.

    Args:
      networks: the networks; the first one is the reference.
      pictures: image files, folders or archives.

    Returns:
      agreement: one row per network: `network`, `accuracy` and `calibration_error` (nan without labeled images), the
        mean `confidence`, and the agreement with the reference (`jaxft.analysis.predictions.Agreement`).
      predictions: one row per image: `file`, `truth`, and for network i, counted from 0, `class_i` and `probability_i`.
      notes: sentences about images that cannot be read and about missing labels.

    Raises:
      UserError: jaxft does not know the network.
    """
    import pandas as pd

    if not networks.model:
        raise UserError(
            "jaxft does not know the network of these files, so it cannot compute predictions; leave out the images, "
            "or name the network (--model; `jaxft models` lists the names)."
        )
    members = find_pictures(pictures)
    table, unreadable = pd.DataFrame(), list[str]()
    classes: tuple[str, ...] = ()
    for i, path in enumerate(networks.paths):
        network = load(path, networks.model)
        classes = classes or network.class_names
        if reason := _without_predictions(networks.labels[0], classes, networks.labels[i], network):
            return None, None, (reason,)
        predictions = list(predict_members(network, members, top=1))
        if not i:
            unreadable = [p.file for p in predictions if p.problem]
            table = pd.DataFrame({"file": [p.file for p in predictions], "truth": [p.truth for p in predictions]})
        table[f"class_{i}"] = [p.classes[0] if p.classes else None for p in predictions]
        table[f"probability_{i}"] = [p.probabilities[0] if p.probabilities else float("nan") for p in predictions]
    table = table[table["class_0"].notna()].reset_index(drop=True)
    if not len(table):
        raise UserError(f"none of the {plural(len(members), 'image')} can be read.")
    notes = []
    if unreadable:
        notes.append(f"{plural(len(unreadable), 'image')} cannot be read ({some_of(unreadable, MOST_NAMED)}).")
    if not (table["truth"] != "").any():
        notes.append("no folder of the images is named after a class, so there is no accuracy.")
    return _agreement(networks.labels, classes, table), table, tuple(notes)


def _without_predictions(first: str, classes: Sequence[str], label: str, network: LoadedNetwork) -> str:
    """Returns why the predictions of a network cannot be compared with those of the reference, or an empty string."""
    if not network.has_classifier:
        return f"{label} has no classifier, so the predictions are not compared."
    if set(network.class_names) != set(classes):
        sizes = f"{first}: {len(classes):,}, such as {classes[0]!r}; {label}: {len(network.class_names):,}, such as "
        return (
            f"the networks have different classes ({sizes}{network.class_names[0]!r}), so their predictions are not "
            "compared."
        )
    return ""


def _agreement(labels: Sequence[str], classes: Sequence[str], table: "pd.DataFrame") -> "pd.DataFrame":
    """Returns the table of agreement; `compare_predictions` describes it."""
    import numpy as np
    import pandas as pd

    from jaxft.analysis.predictions import agreement, calibration_error

    number = {name: i for i, name in enumerate(classes)}
    truths = np.array([number.get(truth, -1) for truth in table["truth"]])
    is_labeled = truths >= 0
    rows = []
    for i, label in enumerate(labels):
        reference, predicted = (np.array([number[name] for name in table[f"class_{k}"]]) for k in (0, i))
        is_right, confidence = predicted == truths, table[f"probability_{i}"].to_numpy()
        rows.append(
            {
                "network": label,
                "accuracy": float(is_right[is_labeled].mean()) if is_labeled.any() else float("nan"),
                "calibration_error": calibration_error(confidence[is_labeled], is_right[is_labeled]),
                "confidence": float(confidence.mean()),
                **agreement(reference, predicted, truths)._asdict(),
            }
        )
    return pd.DataFrame(rows)
