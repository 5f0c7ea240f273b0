"""Values and sentences for the page, model card and summary of `jaxft finetune`, from its record."""

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from jaxft.analysis.statistics import Interval, proportion_interval
from jaxft.core.metrics import METRICS
from jaxft.core.text import percent, plural

PAGE, CARD = "report.html", "MODEL_CARD.md"  # files that are written from the record
MAX_NAMED_CLASSES = 30  # in a confusion matrix with class names


class ClassResult(NamedTuple):
    """The predictions on the test images of one class.

    `confusions` contains (predicted class, number of test images) for the wrong predictions, most frequent first.
    """

    number: int
    name: str
    num_train: int
    num_test: int
    num_correct: int
    confusions: list[tuple[str, int]]

    @property
    def accuracy(self) -> float:
        """Returns the accuracy on the test images of the class, in [0, 1]; NaN if it has no test images."""
        return self.num_correct / self.num_test if self.num_test else math.nan


class ConfusedPair(NamedTuple):
    """The number of test images of one class that were predicted as another class."""

    true_class: str
    predicted_class: str
    num_images: int
    num_test: int


def summary_values(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values that the page, the model card and the printed summary share."""
    data, test = record["data"], record["test"]
    half_width = math.nan if test["half_width"] is None else test["half_width"]
    saved_accuracy = test["accuracy"][record["seeds"].index(record["delivered_seed"])]
    path = PurePath(data["path"])
    return {
        "data_name": path.stem if path.suffix in (".zip", ".npz") else path.name,
        "num_classes": len(data["class_names"]),
        "num_train_val": data["train"] + data["val"],
        "num_val": data["folds"] * data["val"],
        "test": Interval(test["mean"], half_width, len(test["accuracy"])),
        "has_interval": test["half_width"] is not None,
        "saved_accuracy": saved_accuracy,
        "metrics": metric_texts(test),
        "saved_interval": proportion_interval(saved_accuracy, data["test"]),
        "majority_share": max(data["test_per_class"]) / data["test"],
        "selected": next(c for c in record["candidates"] if c["selected"]),
        "usage": usage(record),
    }


def metric_texts(test: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (name, value) of each test metric except accuracy, such as ('mean over the classes', '90.0 %')."""
    return [METRICS[name].value.describe(test[name]) for name in METRICS if name != "accuracy" and name in test]


def class_results(record: Mapping[str, Any]) -> list[ClassResult]:
    """Returns the results of all classes in increasing order of accuracy.

    Of two classes with equal accuracy, the one with more test images comes first. Classes without test images come
    last.
    """
    names, confusion = record["data"]["class_names"], record["confusion"]
    results = []
    for i, (name, row) in enumerate(zip(names, confusion)):
        others = [(names[j], count) for j, count in enumerate(row) if count and j != i]
        others.sort(key=lambda other: -other[1])
        results.append(ClassResult(i, name, record["data"]["train_per_class"][i], sum(row), row[i], others))
    return sorted(results, key=lambda c: (not c.num_test, c.accuracy if c.num_test else 0, -c.num_test))


def confused_pairs(classes: Sequence[ClassResult]) -> list[ConfusedPair]:
    """Returns the confused pairs in decreasing order of the number of images, then of its share of the true class."""
    pairs = [ConfusedPair(c.name, other, count, c.num_test) for c in sorted(classes) for other, count in c.confusions]
    return sorted(pairs, key=lambda pair: (-pair.num_images, -pair.num_images / pair.num_test))


def best_text(classes: Sequence[ClassResult]) -> str:
    """Returns a sentence about the classes with the highest accuracy."""
    tested = [c for c in classes if c.num_test]
    perfect = [c for c in tested if c.accuracy == 1]
    if perfect:
        return f"All test images are classified correctly in {len(perfect):,} of {len(tested):,} classes."
    best = ", ".join(f"{c.name} ({percent(c.accuracy)} %)" for c in tested[:-4:-1])
    return f"The classes with the highest accuracy are {best}."


def image_effect(classes: Sequence[ClassResult]) -> str:
    """Returns a sentence about the effect of one test image on the accuracy of a class, in percentage points."""
    counts = sorted({c.num_test for c in classes if c.num_test})
    if len(counts) == 1:
        points = f"{100 / counts[0]:.2g} percentage points"
        return f"Each class has {plural(counts[0], 'test image')}: one image is {points}."
    return (
        f"A class has {counts[0]:,} to {counts[-1]:,} test images: one image is "
        f"{100 / counts[-1]:.2g} to {100 / counts[0]:.3g} percentage points."
    )


def usage(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns (heading, language, code) for each way to use the files; the code runs in the folder of the files."""
    first, size_px = record["files"][0], record["data"]["size_px"]
    flax = next((name for name in record["files"] if name.endswith(".msgpack")), first)
    examples = [
        ("On the command line", "sh", f"jaxft predict PICTURES --weights {first}"),
        (
            "In Flax",
            "python",
            "from jaxft.weights import read_network\n\n"
            f'model, variables, manifest = read_network("{flax}")\n'
            "inputs = manifest.preprocessing.apply(images)"
            f"  # uint8 [n, {size_px}, {size_px}, 3], RGB\n"
            "logits = model.apply(variables, inputs)",
        ),
    ]
    if record["layout"] == "torch" and first != flax:
        safetensors = first.endswith(".safetensors")
        import_line = "from safetensors.torch import load_file" if safetensors else "import torch"
        tensors = f'load_file("{first}")' if safetensors else f'torch.load("{first}", weights_only=True)'
        network = f"{record['model']} in PyTorch, with {len(record['data']['class_names'])} outputs"
        code = f"{import_line}\n\nnetwork.load_state_dict({tensors})  # {network}"
        examples.append(("In PyTorch", "python", code))
    return examples
