"""Compares fine-tuning of EfficientNet-Lite0 by a linear probe, by `jaxft finetune`, and in plain PyTorch.

    python benchmarks/finetune.py --weights efficientnet_lite0.imagenet.safetensors caltech-101.zip pacs-7x4.zip

The probe is the logistic regression of scikit-learn on pooled features. Its penalty is selected on validation, and it
is then fitted to all training images. All three use the same split. In an archive of domains
(`domain/train|test/class/picture`), each domain is a data set; the script also prints the pooled accuracy over all
domains. Each result is written immediately, and existing results are not repeated, so the script can be interrupted and
resumed. It needs PyTorch (2.13). The machine should be idle.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import finetune_torch as plain
import numpy as np
from sklearn.linear_model import LogisticRegression

from jaxft.config import Images
from jaxft.core.cache import cache_dir
from jaxft.data.readers.file_names import subset_of
from jaxft.data.readers.image_sets import load_images
from jaxft.recipes.run_record import versions

STRENGTHS = (0.01, 0.1, 1.0, 10.0)
WAYS = ("probe", "jaxft", "torch")
OUT = Path(__file__).resolve().parent / "results" / "finetune.json"


def data_sets(path: Path, folder: Path) -> dict[str, Path]:
    """Returns the data sets at `path`: the path itself, or the domains of an archive, extracted to `folder`."""
    if path.is_dir() or not zipfile.is_zipfile(path):
        return {path.stem: path}
    with zipfile.ZipFile(path) as archive:
        pictures = [Path(name).parts for name in archive.namelist() if not name.endswith("/")]
        if not all(len(parts) == 4 and subset_of(parts[1]) for parts in pictures):
            return {path.stem: path}
        archive.extractall(folder / path.stem)
    return {f"{path.stem}/{domain}": folder / path.stem / domain for domain in sorted({parts[0] for parts in pictures})}


def probe(weights: Path, data: Path) -> dict[str, Any]:
    """Returns the test accuracy of logistic regression on pooled features, and the selection of its penalty."""
    start = time.perf_counter()
    images = load_images(Images(data=str(data)), plain.SIZE_PX)
    split, labels = plain.split_images(images), images.labels
    network = plain.load_network(weights, len(images.class_names))
    features = plain.make_inputs(network, images.images, views=1).pooled[0].numpy()

    def score(strength: float, learn: np.ndarray, test: np.ndarray) -> float:
        model = LogisticRegression(C=strength, max_iter=2000).fit(features[learn], labels[learn])
        return float(model.score(features[test], labels[test]))

    selection = {strength: score(strength, split.train, split.val) for strength in STRENGTHS}
    chosen = max(selection, key=selection.__getitem__)
    accuracy = score(chosen, np.concatenate([split.train, split.val]), split.test)
    return {
        "data": {"train": len(split.train), "val": len(split.val), "test": len(split.test)},
        "selection": {f"{strength:g}": value for strength, value in selection.items()},
        "selected": f"{chosen:g}",
        "test": plain.summary([accuracy]),
        "seconds": {"total": time.perf_counter() - start},
    }


def run_jaxft(weights: Path, data: Path) -> dict[str, Any]:
    """Returns the results of `jaxft finetune` that this script compares."""
    with tempfile.TemporaryDirectory() as folder:
        out, cache = Path(folder) / "out", Path(folder) / "cache"
        cache.mkdir()
        (cache / "images").symlink_to(cache_dir() / "images")  # no cached features: their computation is timed
        command = [f"--weights={weights}", f"--data={data}", f"--out={out}"]
        environ = os.environ | {"JAXFT_CACHE": str(cache)}
        subprocess.run([sys.executable, "-P", "-m", "jaxft.cli", "finetune", *command], check=True, env=environ)
        record = json.loads((out / "finetune.json").read_text())
    return {
        "data": {part: record["data"][part] for part in ("train", "val", "test")},
        "selection": {candidate["name"]: candidate["val_accuracy"] for candidate in record["candidates"]},
        **{field: record[field] for field in ("selected", "test", "seconds")},
    }


def run_torch(weights: Path, data: Path) -> dict[str, Any]:
    """Returns the results of the recipe in plain PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [plain.__file__, f"--weights={weights}", f"--data={data}", f"--out={out}"]
        subprocess.run([sys.executable, *command], check=True)
        return json.loads(out.read_text())


RUN: dict[str, Callable[[Path, Path], dict[str, Any]]] = {"probe": probe, "jaxft": run_jaxft, "torch": run_torch}


def environment() -> dict[str, Any]:
    """Returns the versions and the machine of the results."""
    import jax

    device = {"jax": jax.default_backend(), "processor": processor(), "cpus": os.cpu_count()}
    return {"versions": versions() | {"torch": version("torch")}, "device": device}


def processor() -> str:
    """Returns the name of the processor, as reported by the system."""
    about = Path("/proc/cpuinfo")
    names = [line for line in about.read_text().splitlines() if line.startswith("model name")] if about.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


def pooled(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the pooled results by archive and method, for archives whose domains are all finished."""
    together: dict[str, dict[str, Any]] = {}
    for archive in sorted({name.partition("/")[0] for name in results if "/" in name}):
        domains = [ways for name, ways in results.items() if name.startswith(f"{archive}/")]
        for way in WAYS:
            if all(way in ways for ways in domains):
                together.setdefault(f"{archive} pooled", {})[way] = pool([ways[way] for ways in domains])
    return together


def pool(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the accuracy of each seed over the test images of all domains, and the total seconds."""
    sizes = [part["data"]["test"] for part in parts]
    accuracies = np.average([part["test"]["accuracy"] for part in parts], axis=0, weights=sizes).tolist()
    return {"test": plain.summary(accuracies), "seconds": {"total": sum(part["seconds"]["total"] for part in parts)}}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Returns a table of accuracies and seconds, one line per result."""
    lines = [f"{'data':26}{'method':8}{'accuracy %':>14}{'seconds':>10}"]
    for name, ways in results.items():
        for way, result in ways.items():
            mean, half_width = result["test"]["mean"], result["test"]["half_width"]
            accuracy = f"{100 * mean:.1f}" + ("" if half_width is None else f" ± {100 * half_width:.1f}")
            lines.append(f"{name:26}{way:8}{accuracy:>14}{result['seconds']['total']:10.0f}")
    return "\n".join(lines)


def main() -> None:
    """Runs the missing methods, prints the table, and writes the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="+", help="a folder or zip of class folders, or a zip of domains")
    parser.add_argument("--weights", type=Path, required=True, help="published weights of EfficientNet-Lite0")
    parser.add_argument("--only", choices=WAYS, help="the only method to run (default: all three)")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    results: dict[str, dict[str, Any]] = json.loads(args.out.read_text())["results"] if args.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for path in args.data:
            for name, data in data_sets(path, Path(folder)).items():
                ways = results.setdefault(name, {})
                for way in [args.only] if args.only else WAYS:
                    if way not in ways:
                        load, start = os.getloadavg()[0], time.perf_counter()
                        ways[way] = RUN[way](args.weights, data)
                        ways[way]["seconds"]["whole_process"] = time.perf_counter() - start
                        ways[way]["load_before"] = load  # shows whether the machine was idle
                        record = {"results": results, "pooled": pooled(results), **environment()}
                        args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(table(results | pooled(results)))


if __name__ == "__main__":
    main()
