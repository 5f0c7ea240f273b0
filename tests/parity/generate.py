#!/usr/bin/env python3
"""Writes the summaries of torch's results that the tests compare with: one file for each family, and `layers.json`.

    JAXFT_TEST_DATA=DATA python tests/parity/generate.py [--out FOLDER]

The reference script `DATA/../tools/torch_reference.py` runs the networks in float64; it needs torch, torchvision and
safetensors. The recipe of the weights is in `drawn.py`, that of the summaries in `summaries.py`. The weights that are
drawn here must have the bits of the reference's.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import layers
import numpy as np
from drawn import SIZES_PX, TRAINED, draw_images, draw_weights
from passes import modules_of
from safetensors.numpy import load_file
from summaries import Record, Summary, summarize, write_family

from jaxft.models import create_model
from jaxft.weights import digest_of

HERE = Path(__file__).resolve().parent


def run_reference(script: Path, name: str, folder: Path, *options: str) -> tuple[Path, dict[str, np.ndarray]]:
    """Runs the reference script; returns the path of the network's weights, and its results."""
    command = [sys.executable, str(script), name, str(folder), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    with np.load(folder / f"{name}.npz") as results:
        return folder / f"{name}.safetensors", dict(results)


def record_of(script: Path, name: str, folder: Path) -> Record:
    """Returns the facts and summaries of the network called `name`."""
    path, results = run_reference(script, name, folder, "--size", str(SIZES_PX[name]), "--dtype", "float64")
    model = create_model(name, num_classes=1000)
    tensors = draw_weights(model)
    reference = {key: x for key, x in load_file(path).items() if not key.endswith("num_batches_tracked")}
    assert digest_of(tensors) == digest_of(reference), f"{name}: other weights are drawn here than by the reference"
    images = draw_images(SIZES_PX[name])
    assert images.dtype == results["images"].dtype and images.tobytes() == results["images"].tobytes()

    activations = {f"act/{module}" for module in modules_of(model).values()}
    kept = activations | {"logits"}
    if name in TRAINED:
        kept |= {key for key in results if key.startswith(("train_logits", "grad/", "gradsum/", "stat/"))}
    assert kept <= results.keys(), f"{name}: the reference lacks {sorted(kept - results.keys())}"
    summaries = {}
    for key in sorted(kept):
        if key.startswith("gradsum/"):
            norm, mean, projection = results[key].tolist()
            shape = tensors[key.removeprefix("gradsum/")].shape
            summaries[key] = Summary(shape, norm, mean, np.array([projection]), None, np.empty(0))
        else:
            summaries[key] = summarize(key, results[key])
    versions = {package: importlib.metadata.version(package) for package in ("torch", "torchvision")}
    return Record({"size_px": SIZES_PX[name], "weights_sha256": digest_of(tensors)} | versions, summaries)


def batch_norm() -> dict[str, Any]:
    """Returns the gradient of a squared error through torch's batch norm (NHWC), and the running statistics."""
    import torch

    x, target = (torch.tensor(values.transpose(0, 3, 1, 2)) for values in layers.draw_batch_norm())
    x.requires_grad = True
    norm = torch.nn.BatchNorm2d(x.shape[1]).double()
    ((norm(x) - target) ** 2).sum().backward()
    gradient = x.grad.numpy().transpose(0, 2, 3, 1)
    statistics = {"mean": norm.running_mean.tolist(), "var": norm.running_var.tolist()}
    return {"gradient": gradient.tolist(), **statistics}


def optimize(
    momentum: float, nesterov: bool = False, weight_decay: float = 0.0, beta2: float | None = None
) -> dict[str, Any]:
    """Returns the parameters after steps of torch's SGD, or AdamW where `beta2` is given; only kernels decay."""
    import torch

    start, scale = layers.draw_quadratic()
    params = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
    decay = {name: weight_decay if name.endswith("kernel") else 0.0 for name in params}
    groups = [
        {"params": [value], "lr": layers.LEARNING_RATES[name], "weight_decay": decay[name]}
        for name, value in params.items()
    ]
    if beta2 is None:
        optimizer = torch.optim.SGD(groups, momentum=momentum, nesterov=nesterov)
    else:
        optimizer = torch.optim.AdamW(groups, betas=(momentum, beta2), eps=1e-8)
    for _ in range(layers.NUM_STEPS):
        optimizer.zero_grad()
        sum((torch.tensor(scale[name]) * value**2).sum() for name, value in params.items()).backward()
        optimizer.step()
    return {name: value.detach().tolist() for name, value in params.items()}


def generate(script: Path, out: Path) -> None:
    """Writes every file into the folder `out`."""
    families: dict[str, dict[str, Record]] = {}
    for name in SIZES_PX:
        with tempfile.TemporaryDirectory() as folder:
            families.setdefault(name.rstrip("0123456789_"), {})[name] = record_of(script, name, Path(folder))
    for family, records in families.items():
        write_family(out / f"{family}.npz", records)
    results = {"batch_norm": batch_norm()} | {
        name: optimize(**{field.removeprefix("optimizer."): value for field, value in case.items()})
        for name, case in layers.OPTIMIZERS.items()
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(result)}" for name, result in results.items())
    (out / layers.PATH.name).write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the files (default: beside this script)")
    data = Path(os.environ.get("JAXFT_TEST_DATA") or HERE.parents[2] / "shared" / "data")
    generate(data.parent / "tools" / "torch_reference.py", parser.parse_args().out)


if __name__ == "__main__":
    main()
