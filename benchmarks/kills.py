"""Kills a study again and again and compares its results with those of an uninterrupted run.

    python benchmarks/kills.py --kills 20
    python benchmarks/kills.py --kills 300 --workers 4

The study is `configs/quickstart.py` with two seeds and five epochs of the source: 18 trials. Each SIGKILL hits a
process of the study at one of three moments: right after it has stored a trial ('between trials'), while Orbax commits
its checkpoint ('during a commit'), or at a random time ('at any time', which also hits the main process). The moments
take turns. When the main process has ended, the same command resumes the study. If the study finishes before the last
kill, it starts again. After the last kill it runs to its end. The script compares every accuracy, every parameter
distance by layer, and every byte of the final weights.

A process is found by the lock of its job in /proc/locks, so this needs Linux. `--minutes` ends the kills early. The
results of several calls are added up in the file of results; `--seed` gives each call other random times.
"""

import argparse
import collections
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
from jaxft.study.jobs import work_key

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart.py"
OUT = Path(__file__).resolve().parent / "results" / "kills.json"
BETWEEN, COMMIT, ANY = MOMENTS = ("between trials", "during a commit", "at any time")
SECONDS = 0.1, 3.0  # from one kill to the next 'at any time'
WAIT_SECONDS = 60.0  # for the other moments


def command(workdir: Path, workers: int) -> list[str]:
    """Returns the command that starts or resumes the study."""
    how = ["executor=workers", f"workers={workers}"] if workers else ["executor=sequential"]
    # A process that lives for seconds needs frequent checkpoints; by default they are minutes apart.
    words = [f"--config.execution.{word}" for word in (*how, "checkpoint_seconds=0.2")]
    words += ["--config.seeds=2", "--config.source.training.schedule.epochs=5"]
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


def owners_of(locks: Path) -> dict[str, int]:
    """Returns the process id of the owner of each lock in a folder that a process holds, by the name of the lock."""
    owner_by_inode = {}
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK":
            owner_by_inode[int(fields[5].rpartition(":")[2])] = int(fields[4])
    owners = {}
    for lock in locks.glob("*"):
        with contextlib.suppress(FileNotFoundError, KeyError):
            owners[lock.name] = owner_by_inode[lock.stat().st_ino]
    return owners


def paths_of(workdir: Path, pattern: str) -> set[Path]:
    """Returns the files of a work directory that match a pattern; empty if a folder disappears meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        return set(workdir.glob(pattern))
    return set()


def wait_for(moment: str, process: subprocess.Popen[bytes], workdir: Path, chance: random.Random) -> int | None:
    """Waits for a moment to kill, and returns the process to kill, or None if the study ended or nothing happened."""
    if moment == ANY:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(*SECONDS))
            return None
        return chance.choice([process.pid, *workers_of(process)])
    stored, owners = paths_of(workdir, "trials/[!.]*.json"), dict[str, int]()
    end = time.monotonic() + WAIT_SECONDS
    while process.poll() is None and time.monotonic() < end:
        owners |= owners_of(workdir / "locks")  # a process may release its lock before its record is seen
        if moment == BETWEEN:
            keys = [work_key([path.stem]) for path in paths_of(workdir, "trials/[!.]*.json") - stored]
        else:
            keys = [path.parent.name for path in paths_of(workdir, "checkpoints/*/*orbax-checkpoint-tmp*")]
        for key in keys:
            if key in owners:
                time.sleep(chance.uniform(0, 0.005))
                return owners[key]
        time.sleep(0.001)
    return None


def kill_again_and_again(
    words: list[str], run: dict[str, Any], workdir: Path, chance: random.Random
) -> Iterator[tuple[str, str]]:
    """Runs a command repeatedly, and yields (moment, 'study' or 'worker') of each kill, or ('', '') if it finished."""
    process: subprocess.Popen[bytes] | None = None
    turn = 0
    try:
        while True:
            if process is None or process.poll() is not None:
                process = subprocess.Popen(words, **run)
            moment = MOMENTS[turn % len(MOMENTS)]
            hit = wait_for(moment, process, workdir, chance)
            turn += 1
            if hit is None:
                if process.poll() == 0:
                    yield "", ""
                continue  # otherwise trials failed with their worker; the next command runs them again
            try:
                os.kill(hit, signal.SIGKILL)
            except ProcessLookupError:  # the worker has already ended
                continue
            if hit == process.pid:
                process.wait()
            yield moment, "study" if hit == process.pid else "worker"
    finally:
        if process is not None:
            process.kill()
            process.wait()


def main() -> None:
    """Runs the comparison, prints it, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=0, help="worker processes; 0 runs everything in one")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end the kills after this time")
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
        hits: list[tuple[str, str]] = []
        end = time.monotonic() + 60 * args.minutes
        for hit in kill_again_and_again(words, run[killed], killed, chance):
            if not hit[0]:
                equal.append(same(whole, killed))
                print(f"finished: {equal[-1]}", flush=True)
                shutil.rmtree(killed)
                shutil.rmtree(f"{killed}-cache")
                continue
            hits.append(hit)
            num_done = len(list(killed.glob("trials/[!.]*.json")))
            print(f"kill {len(hits)} {hit[0]} ({hit[1]} process): {num_done} trials finished", flush=True)
            if len(hits) == args.kills or time.monotonic() > end:
                break
        subprocess.run(words, **run[killed])  # trials of a killed worker may fail here
        subprocess.run(words, check=True, **run[killed])
        equal.append(same(whole, killed))
    for what in equal[0]:
        print(f"{what}: {'equal' if all(one[what] for one in equal) else 'DIFFERENT'}")
    write_results(args, hits, equal)
    sys.exit(0 if all(all(one.values()) for one in equal) else 1)


def write_results(args: argparse.Namespace, hits: list[tuple[str, str]], equal: list[dict[str, bool]]) -> None:
    """Adds the kills of this call to the file of results."""
    records = json.loads(args.out.read_text()) if args.out.exists() else {}
    name = f"{args.workers} workers" if args.workers else "sequential"
    before = records.get(name, {})
    moments = collections.Counter(moment for moment, _ in hits)
    moments.update(before.get("moments", {}))
    equal_before = before.get("equal", {})
    records[name] = {
        "kills": before.get("kills", 0) + len(hits),
        "moments": {moment: moments[moment] for moment in MOMENTS},
        "of the study's process": before.get("of the study's process", 0) + sum(who == "study" for _, who in hits),
        "studies": before.get("studies", 0) + len(equal),
        "seeds": [*before.get("seeds", []), args.seed],
        "equal": {what: equal_before.get(what, True) and all(one[what] for one in equal) for what in equal[0]},
        "versions": versions(),
        "cpus": os.cpu_count(),
    }
    args.out.write_text(json.dumps(records, indent=1) + "\n")
    print(json.dumps(records[name]["moments"]))


if __name__ == "__main__":
    main()
