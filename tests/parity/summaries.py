"""Summaries of tensors, small enough to commit: norm, mean, largest value, projections and samples.

The recipe. `rng = name_rng(key)` (see `drawn.py`), where the key is the reference's, less `grad/` or `gradsum/`. For a
tensor of n values in C order: three vectors of n standard normal values are drawn from `rng` one after another, and the
projections are the tensor's products with them; then 64 positions are drawn, `rng.integers(n, size=64)`. A tensor of at
most 64 values is sampled whole. Samples are stored as integers, in units of the largest absolute value over 2**31 - 1.

Of a gradient with more than 200,000 values, the reference has `gradsum/`: norm, mean, and the first projection.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from drawn import name_rng

NUM_PROJECTIONS = 3
NUM_SAMPLES = 64
UNIT = 2**31 - 1
LARGE = 200_000  # values of a gradient; the reference has three numbers of a larger one


class Summary(NamedTuple):
    """Summary of a tensor; `largest` is the largest absolute value, None where it and the samples are not known."""

    shape: tuple[int, ...]
    norm: float
    mean: float
    projections: np.ndarray  # [NUM_PROJECTIONS], or [1] of a large gradient
    largest: float | None
    samples: np.ndarray  # [at most NUM_SAMPLES]


def summarize(key: str, tensor: Any) -> Summary:
    """Returns the summary of `tensor`, which the reference calls `key`."""
    values = np.asarray(tensor, np.float64)
    flat = values.reshape(-1)
    norm, mean = float(np.linalg.norm(flat)), float(flat.mean())
    rng = name_rng(key.removeprefix("grad/").removeprefix("gradsum/"))
    if key.startswith("gradsum/"):
        return Summary(values.shape, norm, mean, np.array([flat @ rng.normal(size=flat.size)]), None, np.empty(0))
    projections = np.array([flat @ rng.normal(size=flat.size) for _ in range(NUM_PROJECTIONS)])
    positions = np.arange(flat.size) if flat.size <= NUM_SAMPLES else rng.integers(flat.size, size=NUM_SAMPLES)
    return Summary(values.shape, norm, mean, projections, float(np.abs(flat).max()), flat[positions])


def summarize_all(tensors: dict[str, Any]) -> dict[str, Summary]:
    """Returns the summaries of `tensors` by key; a large gradient's is `gradsum/*`, as in the reference."""
    summaries = {}
    for key, tensor in tensors.items():
        if key.startswith("grad/") and np.size(tensor) > LARGE:
            key = key.replace("grad/", "gradsum/", 1)
        summaries[key] = summarize(key, tensor)
    return summaries


def difference(ours: Summary, theirs: Summary) -> float:
    """Returns the largest difference of two summaries; infinite where the shapes differ.

    Norms and projections differ by shares of the norm, means by shares of the root mean square, samples and largest
    values by shares of the largest value. Not a number where the reference is all zeros: nothing would be compared.
    """
    if ours.shape != theirs.shape:
        return math.inf
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = [
            np.subtract([ours.norm, *ours.projections], [theirs.norm, *theirs.projections]) / np.float64(theirs.norm),
            [(ours.mean - theirs.mean) * math.sqrt(math.prod(theirs.shape)) / np.float64(theirs.norm)],
        ]
        if theirs.largest is not None:
            pair = np.append(ours.samples, ours.largest), np.append(theirs.samples, theirs.largest)
            shares.append(np.subtract(*pair) / np.float64(theirs.largest))
    return float(np.abs(np.concatenate(shares)).max())


def differences(ours: dict[str, Summary], theirs: dict[str, Summary]) -> dict[str, float]:
    """Returns the difference of each summary by key, after checking that both sides have the same keys."""
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())
    return {key: difference(ours[key], summary) for key, summary in theirs.items()}


class Record(NamedTuple):
    """What is kept of a network: facts (image size, versions, digest of the weights), and the summaries by key."""

    facts: dict[str, Any]
    summaries: dict[str, Summary]


def write_family(path: Path, records: dict[str, Record]) -> None:
    """Writes the summaries of a family's networks; equal records give equal bytes."""
    arrays = {}
    for network, record in sorted(records.items()):
        shapes = {key: summary.shape for key, summary in record.summaries.items()}
        numbers, samples = [], []
        for summary in record.summaries.values():
            numbers += [summary.norm, summary.mean, *summary.projections]
            if summary.largest is not None:
                numbers.append(summary.largest)
                samples.append(np.rint(summary.samples / (summary.largest or 1.0) * UNIT).astype(np.int32))
        arrays[f"{network}/index"] = np.array(json.dumps(record.facts | {"shapes": shapes}))
        arrays[f"{network}/numbers"] = np.array(numbers)
        arrays[f"{network}/samples"] = np.concatenate(samples)
    np.savez_compressed(path, **arrays)


def read_family(path: Path) -> dict[str, Record]:
    """Returns the records of a family's networks by name."""
    with np.load(path) as file:
        arrays = dict(file)
    records = {}
    for network in sorted({key.partition("/")[0] for key in arrays}):
        facts = json.loads(str(arrays[f"{network}/index"]))
        numbers, samples = iter(arrays[f"{network}/numbers"].tolist()), arrays[f"{network}/samples"]
        summaries = {}
        for key, shape in facts.pop("shapes").items():
            large = key.startswith("gradsum/")
            norm, mean = next(numbers), next(numbers)
            projections = np.array([next(numbers) for _ in range(1 if large else NUM_PROJECTIONS)])
            largest = None if large else next(numbers)
            count = 0 if large else min(math.prod(shape), NUM_SAMPLES)
            values, samples = samples[:count] / UNIT * (largest or 0.0), samples[count:]
            summaries[key] = Summary(tuple(shape), norm, mean, projections, largest, values)
        assert next(numbers, None) is None and not len(samples), f"{path.name}: numbers are left over"
        records[network] = Record(facts, summaries)
    return records
