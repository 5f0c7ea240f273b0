"""The files that `finetune` writes (weights, record, report and model card), and its predictions of the test images."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.core.files import explained_os_errors, replacing
from jaxft.recipes.finetune.folder import RECORD, WEIGHTS
from jaxft.recipes.finetune.task import Task

if TYPE_CHECKING:
    import jax
    import numpy as np

    from jaxft.study.planned import PlannedTrial

MAX_MISTAKES = 24
BATCH_SIZE = 32


def deliver_weights(weights: Path, folder: Path, task: Task) -> list[str]:
    """Writes weights in the format of the pretrained file and in the format of Flax. Returns the names of the files.

    Args:
      weights: the file of the fine-tuned weights.
      folder: the folder to write to.
      task: the task, with the manifest of the pretrained file.
    """
    from jaxft.weights import convert_weights
    from jaxft.weights.formats import writable_suffixes

    name, format_name = task.manifest.file, task.manifest.format
    if format_name in ("safetensors", "msgpack"):
        suffix = f".{format_name}"
    else:
        suffix = next((suffix for suffix in writable_suffixes() if name.endswith(suffix)), ".pth")
    names = list(dict.fromkeys([f"{WEIGHTS}{suffix}", f"{WEIGHTS}.msgpack"]))
    for name in names:
        convert_weights(weights, folder / name)
    return names


@dataclass(frozen=True, eq=False)
class TestPredictions:
    """Predictions of the test images.

    Attributes:
      confusion: [classes][classes]: the number of images of each class (row) that are predicted as each class (column).
      metrics: all metrics (`jaxft.core.metrics`) of the predictions, by name.
      mistakes: the mistakes with the highest probability, most confident first.
      pictures: the images of these mistakes, [h, w, 3] uint8, by id.
    """

    confusion: list[list[int]]
    metrics: dict[str, float]
    mistakes: list[dict[str, Any]]
    pictures: dict[str, "np.ndarray"]


def predict_test_images(weights: Path, trial: "PlannedTrial") -> TestPredictions:
    """Returns the predictions of the test images of a trial, by the weights in a file."""
    import numpy as np

    from jaxft.core.metrics import compute_metrics

    images, rows = trial.images, trial.split.test
    names, labels = images.class_names, images.labels[rows]
    probabilities = class_probabilities(weights, images.images, rows)
    predicted = probabilities.argmax(1)
    confusion = np.zeros((len(names), len(names)), int)
    np.add.at(confusion, (labels, predicted), 1)
    wrong = np.flatnonzero(predicted != labels)
    order = np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")
    shown = wrong[order][:MAX_MISTAKES]
    mistakes = [
        {
            "id": images.ids[rows[i]],
            "label": names[labels[i]],
            "predicted": names[predicted[i]],
            "probability": float(probabilities[i, predicted[i]]),
            "label_probability": float(probabilities[i, labels[i]]),
        }
        for i in shown
    ]
    pictures = {images.ids[rows[i]]: np.asarray(images.images[rows[i]]) for i in shown}
    return TestPredictions(confusion.tolist(), compute_metrics(labels, predicted), mistakes, pictures)


def class_probabilities(weights: Path, images: "np.ndarray", rows: "np.ndarray") -> "np.ndarray":
    """Returns the class probabilities [rows, classes] of `images[rows]`, by the network in a file.

    Args:
      weights: the weight file.
      images: [n, h, w, 3] uint8, in the size that the network expects.
      rows: [rows] int, indices of images.
    """
    import jax
    import numpy as np

    from jaxft.data.batches import padded_batches
    from jaxft.weights import read_network

    model, variables, manifest = read_network(weights)
    variables = {name: variables[name] for name in ("params", "batch_stats") if name in variables}

    @jax.jit
    def classify(variables: Any, batch: "jax.Array") -> "jax.Array":
        return jax.nn.softmax(model.apply(variables, manifest.preprocessing.apply(batch)))

    batches, _ = padded_batches(rows, BATCH_SIZE)
    return np.concatenate([np.asarray(classify(variables, images[batch])) for batch in batches])[: len(rows)]


def write_documents(folder: Path, record: Mapping[str, Any], pictures: Mapping[str, "np.ndarray"]) -> None:
    """Writes the report and the model card, then the record, which marks a complete result.

    Args:
      folder: the folder to write to.
      record: the record.
      pictures: the images of the mistakes, [h, w, 3] uint8, by id.
    """
    from jaxft.report.finetune import model_card, write_finetune_page
    from jaxft.report.finetune_record import CARD, PAGE

    write_finetune_page(folder / PAGE, record, pictures)
    texts = {CARD: model_card(record), RECORD: json.dumps(record, indent=1, allow_nan=False)}
    for name, text in texts.items():
        with explained_os_errors(folder / name), replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
