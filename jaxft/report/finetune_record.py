"""Numbers and sentences from the record of a network that was fine-tuned once."""

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from jaxft.analysis.statistics import Interval, proportion_interval
from jaxft.core.metrics import METRICS
from jaxft.core.text import percent, plural

MOST_IN_MATRIX = 30  # classes that a matrix names


class TestedClass(NamedTuple):
    """What became of the test images of a class; `taken_for` has the other classes and how often, the most first."""

    number: int
    name: str
    num_train: int
    num_test: int
    num_right: int
    taken_for: list[tuple[str, int]]

    @property
    def accuracy(self) -> float:
        """Returns the share of its test images that were right; nan where it has none."""
        return self.num_right / self.num_test if self.num_test else math.nan


class Pair(NamedTuple):
    """How many of the test images of a class were taken for another class."""

    truth: str
    predicted: str
    num_images: int
    num_test: int


def facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the page, the card and the command say alike."""
    data, test = record["data"], record["test"]
    half_width = math.nan if test["half_width"] is None else test["half_width"]
    delivered = test["accuracy"][record["seeds"].index(record["delivered_seed"])]
    path = PurePath(data["path"])
    return {
        "data_name": path.stem if path.suffix in (".zip", ".npz") else path.name,
        "num_classes": len(data["class_names"]),
        "num_learned": data["train"] + data["val"],
        "num_judged": data["folds"] * data["val"],
        "test": Interval(test["mean"], half_width, len(test["accuracy"])),
        "has_interval": test["half_width"] is not None,
        "delivered": delivered,
        "metrics": metric_texts(test),
        "likely": proportion_interval(delivered, data["test"]),
        "largest_share": max(data["test_per_class"]) / data["test"],
        "selected": next(c for c in record["candidates"] if c["selected"]),
        "usage": usage(record),
    }


def metric_texts(test: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (name, value) of the delivered weights' metrics but the accuracy: ('mean over the classes', '90.0 %')."""
    return [METRICS[name].value.describe(test[name]) for name in METRICS if name != "accuracy" and name in test]


def classes_of(record: Mapping[str, Any]) -> list[TestedClass]:
    """Returns the classes, the least accurate first, of equals that with more test images; untested ones last."""
    names, confusion = record["data"]["class_names"], record["confusion"]
    classes = []
    for i, (name, row) in enumerate(zip(names, confusion)):
        others = [(names[j], count) for j, count in enumerate(row) if count and j != i]
        others.sort(key=lambda other: -other[1])
        classes.append(TestedClass(i, name, record["data"]["train_per_class"][i], sum(row), row[i], others))
    return sorted(classes, key=lambda c: (not c.num_test, c.accuracy if c.num_test else 0, -c.num_test))


def pairs_of(classes: Sequence[TestedClass]) -> list[Pair]:
    """Returns which class was taken for which, the most frequent first, of equals the larger share of the class."""
    pairs = [Pair(c.name, other, count, c.num_test) for c in sorted(classes) for other, count in c.taken_for]
    return sorted(pairs, key=lambda pair: (-pair.num_images, -pair.num_images / pair.num_test))


def best_text(classes: Sequence[TestedClass]) -> str:
    """Returns a sentence on the most accurate classes."""
    tested = [c for c in classes if c.num_test]
    perfect = [c for c in tested if c.accuracy == 1]
    if perfect:
        return f"In {len(perfect):,} of {len(tested):,} classes every test image is right."
    return f"The best are {', '.join(f'{c.name} ({percent(c.accuracy)} %)' for c in tested[:-4:-1])}."


def image_worth(classes: Sequence[TestedClass]) -> str:
    """Returns a sentence on how much one test image moves the accuracy of a class."""
    counts = sorted({c.num_test for c in classes if c.num_test})
    if len(counts) == 1:
        return f"A class has {plural(counts[0], 'test image')}, so one is {100 / counts[0]:.2g} points."
    return (
        f"A class has {counts[0]:,} to {counts[-1]:,} test images, so one is "
        f"{100 / counts[-1]:.2g} to {100 / counts[0]:.3g} points."
    )


def usage(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns ways to use the files, from the folder that they are in: (with what, language, code)."""
    first, size_px = record["files"][0], record["data"]["size_px"]
    flax = next((name for name in record["files"] if name.endswith(".msgpack")), first)
    ways = [
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
        reader = "from safetensors.torch import load_file" if safetensors else "import torch"
        tensors = f'load_file("{first}")' if safetensors else f'torch.load("{first}", weights_only=True)'
        outputs = len(record["data"]["class_names"])
        code = f"{reader}\n\nnetwork.load_state_dict({tensors})  # {record['model']} in PyTorch, with {outputs} outputs"
        ways.append(("In PyTorch", "python", code))
    return ways
