"""Measures how much snapshots of the weights during training slow a trial.

    python benchmarks/snapshots.py --images images/intel-scenes-6.zip

A ResNet of 14 layers (32 px) and, with `--networks resnet18`, a ResNet-18 (64 px, minutes for each trial) are trained
for 180 steps on images of scenes, with eight snapshots, as in `configs/what_changes.py`, and without. The trials
alternate in one process for several rounds, and the script compares medians of the seconds of the trials.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from finetune import environment

import jaxft
from jaxft.config import Study, from_dict

OUT = Path(__file__).resolve().parent / "results" / "snapshots.json"
STEPS = [1, 2, 5, 10, 20, 50, 100, 180]
NETWORKS = {"resnetsmall14": 32, "resnet18": 64}


def study(model: str, size_px: int, images: Path, snapshot_steps: Sequence[int]) -> Study:
    """Returns a study of one trial of 180 steps."""
    return from_dict(
        Study,
        {
            "source": {"model": model},
            "target": {"data": str(images), "size_px": size_px, "train_per_class": 30, "test_per_class": 5},
            "training": {
                "initialization": {"start": "random"},
                "batches": {"size": 20},
                "schedule": {"epochs": 20.0},
                "selection": {"weights": "last"},
            },
            "execution": {"snapshot_steps": list(snapshot_steps), "executor": "sequential"},
        },
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the seconds and ratios, and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="images in folders of six classes, or an archive")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--networks", nargs="+", default=["resnetsmall14"], choices=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    load_before = os.getloadavg()[0]
    results = {}
    for model in args.networks:
        size_px = NETWORKS[model]
        seconds: dict[str, list[float]] = {"with": [], "without": []}
        for number in range(args.rounds + 1):
            for way in seconds:
                with tempfile.TemporaryDirectory() as workdir:
                    steps = STEPS if way == "with" else []
                    table = jaxft.run_study(study(model, size_px, args.images, steps), workdir, quiet=True)
                if number:  # the first round is a warmup
                    seconds[way].append(float(table["seconds"].iloc[0]))
        medians = {way: statistics.median(values) for way, values in seconds.items()}
        ratio = statistics.median(a / b for a, b in zip(seconds["with"], seconds["without"]))
        results[model] = {"seconds": medians, "median_ratio": ratio}
        times = ", ".join(f"{way} snapshots {value:.2f} s" for way, value in medians.items())
        print(f"{model:16}{times}; ratio {ratio:.3f}", flush=True)
        found = {"results": results, "steps": STEPS, "rounds": args.rounds, "load_before": load_before, **environment()}
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
