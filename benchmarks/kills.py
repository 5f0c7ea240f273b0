"""Kills a study at random moments and compares its table with that of the same study left alone.

    python benchmarks/kills.py --kills 20 --out benchmarks/results/kills.json

The study is the quickstart. Each process gets SIGKILL after a random time; then the same command runs to its end.
Compared are every accuracy, every parameter distance by layer, and every byte of the final weights.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jaxft
from jaxft.commands.study import versions
from jaxft.store import Store

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart.py"


def command(workdir: Path) -> list[str]:
    """Returns the command that runs the study, or goes on with it."""
    study = [sys.executable, "-m", "jaxft.cli", "study", f"--config={CONFIG}", f"--workdir={workdir}"]
    # Checkpoints are usually minutes apart; a process that lives for seconds needs them more often to get anywhere.
    return [*study, "--config.execution.checkpoint_seconds=2"]


def same(one: Path, other: Path) -> dict[str, bool]:
    """Returns what is equal in two finished studies."""
    tables = [jaxft.load_results(workdir).drop(columns="seconds") for workdir in (one, other)]
    stores = [Store.open(workdir) for workdir in (one, other)]
    weights = [{p.name: p.read_bytes() for p in w.glob("weights/[!.]*")} for w in (one, other)]
    return {
        "table": tables[0].equals(tables[1]),
        "changes by layer": stores[0].changes().equals(stores[1].changes()),
        "final weights": weights[0] == weights[1],
        "no record lost or doubled": len(list(other.glob("trials/[!.]*.json"))) == len(tables[0]),
    }


def main() -> None:
    """Runs the comparison, prints it, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        # Compiled programs are kept between the processes, so that kills fall into the work and not into compiling.
        kept = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/xla", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        # Each computes its features itself.
        run = {w: {"env": os.environ | kept | {"JAXFT_CACHE": f"{w}-cache"}, **quiet} for w in (whole, killed)}
        subprocess.run(command(whole), check=True, **run[whole])
        done = []
        for kill in range(args.kills):
            process = subprocess.Popen(command(killed), **run[killed])
            time.sleep(chance.uniform(5, 10))
            process.send_signal(signal.SIGKILL)
            process.wait()
            done.append(len(list(killed.glob("trials/[!.]*.json"))))
            print(f"kill {kill + 1}: {done[-1]} trials done", flush=True)
        subprocess.run(command(killed), check=True, **run[killed])
        equal = same(whole, killed)
    print("\n".join(f"{what}: {'equal' if holds else 'DIFFERENT'}" for what, holds in equal.items()))
    record = {"kills": args.kills, "seed": args.seed, "trials done after each": done, "equal": equal}
    if args.out:
        args.out.write_text(json.dumps(record | {"versions": versions(), "cpus": os.cpu_count()}, indent=1) + "\n")
    sys.exit(0 if all(equal.values()) else 1)


if __name__ == "__main__":
    main()
