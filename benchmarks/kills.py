"""Kills a study at random times and compares its results with those of an uninterrupted run.

    python benchmarks/kills.py --kills 20
    python benchmarks/kills.py --kills 200 --workers 4

The study is `configs/quickstart.py`. With sequential execution, its process gets SIGKILL after a random time, and the
same command resumes it. With workers, each SIGKILL hits the main process or a random worker; the command runs again
when the main process has ended. If the study finishes before the last kill, it starts again. After the last kill it
runs to its end. The script compares every accuracy, every parameter distance by layer, and every byte of the final
weights.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxft
from jaxft.recipes.run_record import versions
from jaxft.store.records import Store

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart.py"
OUT = Path(__file__).resolve().parent / "results" / "kills.json"
FIRST_SECONDS = 5.0, 10.0  # from the start of the main process to the first kill, so that it makes progress
NEXT_SECONDS = 0.5, 5.0  # between two kills that leave the main process alive


def command(workdir: Path, workers: int) -> list[str]:
    """Returns the command that starts or resumes the study."""
    how = ["executor=workers", f"workers={workers}"] if workers else ["executor=sequential"]
    # A process that lives for seconds needs frequent checkpoints; by default they are minutes apart.
    words = [f"--config.execution.{word}" for word in (*how, f"checkpoint_seconds={0.5 if workers else 2}")]
    return [sys.executable, "-P", "-m", "jaxft.cli", "study", f"--config={CONFIG}", f"--workdir={workdir}", *words]


def same(one: Path, other: Path) -> dict[str, bool]:
    """Returns which results of two finished studies are equal."""
    tables = [jaxft.load_results(workdir).drop(columns="seconds") for workdir in (one, other)]
    stores = [Store.open(workdir) for workdir in (one, other)]
    weights = [{p.name: p.read_bytes() for p in w.glob("weights/[!.]*")} for w in (one, other)]
    return {
        "table": tables[0].equals(tables[1]),
        "changes by layer": stores[0].changes().equals(stores[1].changes()),
        "final weights": weights[0] == weights[1],
        "no record lost or doubled": len(list(other.glob("trials/[!.]*.json"))) == len(tables[0]),
    }


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Returns the process ids of the workers of a study, from the process table of Linux."""
    said = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "jaxft.commands.worker"], capture_output=True)
    return [int(number) for number in said.stdout.split()]


def kill_again_and_again(words: list[str], run: dict[str, Any], chance: random.Random, workers: int) -> Iterator[str]:
    """Runs a command repeatedly, and yields the target of each kill, 'study' or 'worker', or 'none' if it finished."""
    process: subprocess.Popen[bytes] | None = None
    try:
        while True:
            seconds = NEXT_SECONDS
            if process is None or process.poll() is not None:
                process, seconds = subprocess.Popen(words, **run), FIRST_SECONDS
                while len(workers_of(process)) < workers and process.poll() is None:
                    time.sleep(0.1)
            try:
                if process.wait(chance.uniform(*seconds)) == 0:
                    yield "none"
                continue  # otherwise trials failed with their worker; the next command runs them again
            except subprocess.TimeoutExpired:
                hit = chance.choice([process.pid, *workers_of(process)])
            with contextlib.suppress(ProcessLookupError):  # the worker has already ended
                os.kill(hit, signal.SIGKILL)
            if hit == process.pid:
                process.wait()
            yield "study" if hit == process.pid else "worker"
    finally:
        if process is not None:
            process.kill()
            process.wait()


def main() -> None:
    """Runs the comparison, prints it, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=0, help="worker processes; 0 runs everything in one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        # The processes share compiled programs, so that kills hit training and not compilation.
        kept = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/xla", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        # Each study computes its own features.
        run = {w: {"env": os.environ | kept | {"JAXFT_CACHE": f"{w}-cache"}, **quiet} for w in (whole, killed)}
        subprocess.run(command(whole, args.workers), check=True, **run[whole])
        words, equal = command(killed, args.workers), []
        hits: list[str] = []
        done: list[int] = []
        for hit in kill_again_and_again(words, run[killed], chance, args.workers):
            if hit == "none":
                equal.append(same(whole, killed))
                print(f"finished: {equal[-1]}", flush=True)
                shutil.rmtree(killed)
                shutil.rmtree(f"{killed}-cache")
                continue
            hits.append(hit)
            done.append(len(list(killed.glob("trials/[!.]*.json"))))
            print(f"kill {len(hits)} ({hit} process): {done[-1]} trials finished", flush=True)
            if len(hits) == args.kills:
                break
        subprocess.run(words, **run[killed])  # trials of a killed worker may fail here
        subprocess.run(words, check=True, **run[killed])
        equal.append(same(whole, killed))
    for what in equal[0]:
        print(f"{what}: {'equal' if all(one[what] for one in equal) else 'DIFFERENT'}")
    records = json.loads(args.out.read_text()) if args.out.exists() else {}
    records[f"{args.workers} workers" if args.workers else "sequential"] = {
        "kills": len(hits),
        "of the study's process": hits.count("study"),
        "studies": len(equal),
        "seed": args.seed,
        "trials done at each kill": done,
        "equal": {what: all(one[what] for one in equal) for what in equal[0]},
        "versions": versions(),
        "cpus": os.cpu_count(),
    }
    args.out.write_text(json.dumps(records, indent=1) + "\n")
    sys.exit(0 if all(all(one.values()) for one in equal) else 1)


if __name__ == "__main__":
    main()
