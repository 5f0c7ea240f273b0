"""Measures image loading: decoding compared with a PyTorch DataLoader, reading from the cache, and streaming.

    python benchmarks/data.py                                       # all measures
    python benchmarks/data.py decode cache --data FOLDER --rounds 5

decode: images per second at 224 and at 32 px, from JPEG files of photographs in class folders. jaxft runs `load_images`
with an empty cache, from listing the folder to the memory map on disk, with Pillow alone and with simplejpeg. The
PyTorch DataLoader has one worker per core (at least 2), does the same with Pillow (open, RGB, resize of the shorter
side, center crop), and delivers batches of 64. It is timed from its first batch on, to exclude the start of workers.

cache: images per second at 32 px, in random batches of 256, from the memory map.

stream: additional memory of a process that trains on a gigabyte of images in random order, compared with its first
steps, from a memory map of the same size; and the same with all images on the device.

Each timing runs in a separate process. The processes alternate for several rounds, and the script compares medians.
`decode` needs PyTorch (2.13). The machine should be idle.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "data.json"
DATA = Path(os.environ.get("JAXFT_TEST_DATA") or HERE.parent.parent / "shared" / "data") / "images"
ARCHIVES = ("caltech-101.zip", "imagenet-sample-1000.zip")
SIZES = (224, 32)
BATCH = 64
NUM_CACHED = 50_000
CACHED_PX = 32
STREAMED_BYTES = 1_000_000_000
STREAMED_PX = 128
Record = dict[str, Any]


# --- decoding ---------------------------------------------------------------------------------------------------


def write_pictures(data: Path, folder: Path, most: int) -> int:
    """Writes JPEG photographs to class folders, and returns their number."""
    count = 0
    for archive_name in ARCHIVES:
        with zipfile.ZipFile(data / archive_name) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith(".jpg")][:most]
            for i, name in enumerate(names):
                place = folder / "ab"[i % 2] / f"{archive_name.split('-')[0]}{i:05}.jpg"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(name))
            count += len(names)
    return count


def ours(folder: str, size: str, decoder: str) -> Record:
    """Returns the seconds of jaxft from listing the folder to the memory map, with an empty cache."""
    if decoder == "pillow":
        sys.modules["simplejpeg"] = None  # type: ignore[assignment]
    from jaxft.config import Images
    from jaxft.data import load_images

    np.zeros(1).sum()
    import PIL.Image  # noqa: F401 - the PyTorch workers import it before their timing starts, too

    start = time.perf_counter()
    images = load_images(Images(data=folder), int(size))
    return {"seconds": time.perf_counter() - start, "images": len(images.images), "sum": _sum(images.images)}


def torchs(folder: str, size: str) -> Record:
    """Returns the seconds of a PyTorch DataLoader after its first batch, and the number of images after it."""
    import torch
    from PIL import Image

    side = int(size)

    class Pictures(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.paths = sorted(Path(folder).glob("*/*.jpg"))

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, i: int) -> torch.Tensor:
            with Image.open(self.paths[i]) as opened:
                image = opened.convert("RGB")
            scale = side / min(image.size)
            width, height = (max(side, round(of * scale)) for of in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            left, top = (width - side) // 2, (height - side) // 2
            return torch.from_numpy(np.array(image.crop((left, top, left + side, top + side))))

    loader = torch.utils.data.DataLoader(Pictures(), BATCH, num_workers=max(os.cpu_count() or 2, 2))
    total, count, start = 0, 0, 0.0
    for i, batch in enumerate(loader):
        if i == 0:
            start = time.perf_counter()
        else:
            count += len(batch)
        total += _sum(batch.numpy())
    return {"seconds": time.perf_counter() - start, "images": count, "sum": total}


def _sum(images: np.ndarray) -> int:
    return sum(int(images[i : i + 256].sum(dtype=np.int64)) for i in range(0, len(images), 256))


# --- from the cache ---------------------------------------------------------------------------------------------


def cached(folder: str) -> Record:
    """Returns the seconds of one epoch of random batches from a memory map, after reading it once."""
    from jaxft.data.batches import StepRange, batch_indices
    from jaxft.data.readers.decoded import decoded

    images, _ = decoded("benchmark", NUM_CACHED, CACHED_PX, _noise, folder, lambda line: None)
    total = _sum(images)
    start = time.perf_counter()
    for rows in batch_indices(np.arange(NUM_CACHED), 0, StepRange(0, NUM_CACHED // 256, 256)):
        total -= int(images[rows][0, 0, 0, 0])
    return {"seconds": time.perf_counter() - start, "images": NUM_CACHED // 256 * 256, "sum": total}


def _noise(number: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(number)).integers(0, 256, (CACHED_PX, CACHED_PX, 3), np.uint8)


# --- streamed ---------------------------------------------------------------------------------------------------


def streamed(num_bytes: str, how: str) -> Record:
    """Returns the additional memory of one training epoch, with images streamed or all on the device.

    Memory mapped from files is reported separately, as `file bytes`: it counts only touched pages, which the system can
    reclaim.
    """
    import jax

    from jaxft.config import Training
    from jaxft.core import paths
    from jaxft.core.events import ignore
    from jaxft.data.readers.decoded import decoded
    from jaxft.data.streaming import Stream
    from jaxft.models import create_model
    from jaxft.models.initialization import init_variables
    from jaxft.study.chunk.lanes import Lane
    from jaxft.study.chunk.loop import run_chunk
    from jaxft.study.chunk.program import make_program
    from jaxft.training.hparams import make_hparams
    from jaxft.training.learning_rates import resolve_layers
    from jaxft.training.phases import make_phases

    count = int(num_bytes) // (STREAMED_PX**2 * 3)
    one = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (STREAMED_PX, STREAMED_PX, 3), np.uint8)
    images, _ = decoded("benchmark", count, STREAMED_PX, lambda number: one ^ np.uint8(number % 251), "", ignore)
    model = create_model("cifar_resnet8", num_classes=2)
    preprocessing = model.preprocessing
    training = Training.of(
        {
            "initialization.start": "random",
            "schedule.epochs": 1.0,
            "batches.size": BATCH,
            "layers.backbone_learning_rate": "frozen",
            "augmentation.flip.enabled": True,
        }
    )
    variables = init_variables(model, jax.random.key(0), STREAMED_PX)
    params, stats = paths.flatten(variables["params"]), paths.flatten(variables["batch_stats"])
    layers = resolve_layers(training, model, params)

    def train(num_train: int) -> float:
        phases = make_phases(model, preprocessing, training, layers, tuple(stats), num_train)
        rows = np.arange(num_train, dtype=np.int32)
        labels, key = np.arange(count, dtype=np.int32) % 2, jax.random.key_data(jax.random.key(0))
        lane = Lane(params, stats, make_hparams(training, layers), labels, rows, rows[:0], rows[:0], 0, key)
        start = time.perf_counter()
        device_images = Stream(images) if how == "stream" else jax.numpy.asarray(images)
        run_chunk(make_program(phases, "last", 256, num_train), [lane], device_images)
        return time.perf_counter() - start

    if how == "stream":
        train(4 * BATCH)  # compilation
    before = memory()
    seconds = train(count)
    after = memory()
    return {
        "bytes": images.nbytes,
        "images": count,
        "seconds": seconds,
        "added bytes": after["peak"] - before["now"],
        "file bytes": after["file"],
    }


def memory() -> dict[str, int]:
    """Returns the current and peak bytes of the process without mapped files, and the bytes of mapped files."""
    status = Path("/proc/self/status")
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    kept = {name: int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}
    return {"now": kept["RssAnon"], "peak": max(_peak.most, kept["RssAnon"]), "file": kept["RssFile"]}


class _Peak:
    """Records the peak memory of the process without mapped files, which the system does not report."""

    def __init__(self) -> None:
        self.most = 0

    def watch(self) -> None:
        """Updates the peak every 20 ms."""
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    self.most = max(self.most, int(line.split()[1]) * 1024)
            time.sleep(0.02)


_peak = _Peak()


# --- processes --------------------------------------------------------------------------------------------------


def timed(side: str, *words: str) -> Record:
    """Returns the measurement of a separate process with an empty cache folder."""
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, __file__, "--side", side, *words],
            env=os.environ | {"JAXFT_CACHE": cache},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measure_decode(data: Path, rounds: int, quick: bool) -> Record:
    """Returns images per second of jaxft and PyTorch for each size, and their ratio."""
    found: Record = {}
    with tempfile.TemporaryDirectory() as folder:
        count = write_pictures(data, Path(folder), 100 if quick else 10_000)
        for size in SIZES:
            rates: dict[str, list[float]] = {}
            for _ in range(rounds):
                sides = {
                    "Pillow": ("ours", folder, str(size), "pillow"),
                    "simplejpeg": ("ours", folder, str(size), "simplejpeg"),
                    "torch": ("torchs", folder, str(size)),
                }
                sums = set()
                for name, words in sides.items():
                    record = timed(*words)
                    rates.setdefault(name, []).append(record["images"] / record["seconds"])
                    sums.add(record["sum"])
                if len(sums) > 1:
                    raise RuntimeError("jaxft and PyTorch decode different pixels")
            medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
            found[f"{size} px"] = {
                "pictures": count,
                "images a second": medians,
                "all rounds": {name: [round(value, 1) for value in values] for name, values in rates.items()},
                "Pillow / torch": round(medians["Pillow"] / medians["torch"], 3),
                "simplejpeg / torch": round(medians["simplejpeg"] / medians["torch"], 3),
            }
    return found


def measure_cache(data: Path, rounds: int, quick: bool) -> Record:
    """Returns images per second from the memory map."""
    rates = [(record := timed("cached", "noise"))["images"] / record["seconds"] for _ in range(rounds)]
    return {"images a second": round(statistics.median(rates)), "all rounds": [round(rate) for rate in rates]}


def measure_stream(data: Path, rounds: int, quick: bool) -> Record:
    """Returns memory and images per second, with streaming and with all images on the device."""
    num_bytes = str(STREAMED_BYTES // 10 if quick else STREAMED_BYTES)
    found = {}
    for how in ("stream", "in memory"):
        record = timed("streamed", num_bytes, how)
        found[how] = record | {"images a second": round(record["images"] / record["seconds"])}
    return found


MEASURES: dict[str, Callable[[Path, int, bool], Record]] = {
    "decode": measure_decode,
    "cache": measure_cache,
    "stream": measure_stream,
}
SIDES: dict[str, Callable[..., Record]] = {"ours": ours, "torchs": torchs, "cached": cached, "streamed": streamed}


def versions() -> dict[str, str]:
    """Returns the versions of the measured packages."""
    found = {"python": sys.version.split()[0]}
    for name in ("jaxft", "jax", "numpy", "pillow", "simplejpeg", "grain", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def print_table(results: Record) -> None:
    """Prints one row per measurement."""
    for size, record in results.get("decode", {}).items():
        rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in record["images a second"].items())
        print(
            f"decode at {size:>6}: {rates} images/s; jaxft / torch {record['Pillow / torch']:.2f} with Pillow, "
            f"{record['simplejpeg / torch']:.2f} with simplejpeg (target: 1)"
        )
    if "cache" in results:
        print(f"from the cache at {CACHED_PX} px: {results['cache']['images a second']:,} images/s (target: 100,000)")
    for how, record in results.get("stream", {}).items():
        print(
            f"{record['bytes'] / 1e9:.2f} GB of images, {how}: {record['added bytes'] / 1e6:,.0f} MB more than in the "
            f"first steps, {record['images a second']:,} images/s"
        )


def main() -> None:
    """Runs the measurements, prints them, and adds them to the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=f"{', '.join(MEASURES)} (default: all)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the image archives")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="smoke run with few images; use another --out file")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        threading.Thread(target=_peak.watch, daemon=True).start()
        print(json.dumps(SIDES[args.side](*args.measures)))
        return
    if unknown := set(args.measures) - set(MEASURES):
        parser.error(f"unknown measurement {', '.join(unknown)}; allowed: {', '.join(MEASURES)}")
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in args.measures or MEASURES:
        results[name] = MEASURES[name](args.data, args.rounds, args.quick)
        results["versions"], results["cpus"] = versions(), os.cpu_count()
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    print_table(results)


if __name__ == "__main__":
    main()
