"""Compares whole studies in jaxft, with each executor, and in plain PyTorch.

    python benchmarks/study.py                                        # all measures
    python benchmarks/study.py seeds memory --data FOLDER --rounds 5

The measurements are:

    seeds          eight seeds of one setting
    probe          32 linear heads on a frozen network
    freeze         four freezing depths with four seeds
    start          time to the end of the first step of the quick start
    memory         memory of one more trial under `vmap`
    compilations   number of programs that XLA compiles for 32 trials that differ only in numbers

The studies are in `study_configs.py`, and the PyTorch versions in `study_torch.py`.

Each measurement times a whole process, from start to exit, on the CPU with all cores. A process has an empty cache
folder, so it decodes, times and compiles everything. "again" means a second run with the cache folder of the first. The
processes alternate for several rounds, and the script compares medians. Neither jaxft nor PyTorch saves weights; jaxft
also computes parameter changes and writes its report. Each round is written immediately, and existing rounds are not
repeated. The script needs PyTorch (2.13). The machine should be idle. jaxft and PyTorch have the same GLIBC_TUNABLES,
by default "glibc.malloc.hugetlb=1" (large pages).
"""

import argparse
import collections
import csv
import functools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import study_torch
from finetune import environment

from jaxft import UserError
from jaxft.config import Execution, load_config

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "study.json"
QUICKSTART = HERE.parent / "configs" / "quickstart.py"
REST_SECONDS = 2.0  # wait before each process, until the previous one is gone
OURS = (sys.executable, "-P", "-m", "jaxft.cli", "study")
EXECUTORS = ("sequential", "vmap", "workers", "auto")
PROBE_PART = 2  # trials of the slow PyTorch probe, which takes minutes per trial
WIDTHS = (2, 8)
AUGMENTATION = ("training.augmentation.crop.padding_px=4", "training.augmentation.flip.enabled=True")
# One step of the source network, without evaluation, and then one step of one trial, the minimum of a study.
FIRST_STEP = (
    "source.training.schedule.epochs=0.08",
    "source.images.val_per_class=0",
    "source.images.tested=False",
    "seeds=1",
    "factors=[{'training.initialization.start': ['pretrained'], 'training.layers.backbone_learning_rate': ['frozen']}]",
    "training.schedule.epochs=0.5",
)
# Overrides of a smoke run.
QUICK: dict[str, tuple[str, ...]] = {
    "seeds": ("seeds=2", "training.schedule.epochs=2.0"),
    "probe": (
        "seeds=2",
        "training.schedule.epochs=2.0",
        "factors=[{'training.optimizer.learning_rate': [0.03, 0.1]}]",
        "target.classes=['accordion', 'anchor', 'ant', 'barrel']",
    ),
    "freeze": ("seeds=1", "training.schedule.epochs=2.0"),
    "memory": ("training.schedule.epochs=1.0",),
    "numbers": ("seeds=2", "factors=[{'training.optimizer.learning_rate': [0.01, 0.1]}]"),
}
# Runs a command, and writes its seconds and the peak resident memory of its largest process. The parent must be small,
# because the peak of a child starts at the memory of its parent.
LAUNCHER = """
import json, pathlib, resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.call(sys.argv[2:])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
pathlib.Path(sys.argv[1]).write_text(json.dumps({"seconds": seconds, "peak_bytes": peak}))
sys.exit(code if code >= 0 else 128 - code)  # exit code of a killed process, as in shells
"""
OF_TRIALS = ("compile", "train", "evaluate")  # activities of a study that a loop over trials has too
COMPILING = re.compile(r"Compiling (\S+) with global shapes")  # the message of JAX
Record = dict[str, Any]


# --- processes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """One round of a measurement.

    Attributes:
      data: folder of the data; if None, the data folders of jaxft.
      folder: temporary folder of the round.
      quick: whether this is a smoke run.
      part: number of trials of the slow PyTorch probe; if None, all.
    """

    data: Path | None
    folder: Path
    quick: bool
    part: int | None

    def ours(self, study: str, *overrides: str, cache: str, **environment: str) -> Record:
        """Returns seconds, memory, test accuracies and trials per program of a study in jaxft."""
        workdir = self.fresh("workdir")
        words = [f"--config.{override}" for override in self.overrides(study, overrides)]
        command = [*OURS, f"--config={self.config(study)}", f"--workdir={workdir}", *words]
        record = self.run(command, cache, **environment)
        with (workdir / "results.csv").open() as file:
            rows = list(csv.DictReader(file))
        accuracies = [float(row["test_accuracy"]) for row in rows]
        spent = json.loads(max(workdir.glob("runs/[!.]*.json")).read_text())["spent"]
        record["seconds_of_trials"] = sum(spent.get(activity, 0.0) for activity in OF_TRIALS)
        return record | {"accuracies": accuracies, "width": max(int(row["width"]) for row in rows)}

    def torch(self, study: str, *words: str, overrides: Sequence[str] = ()) -> Record:
        """Returns seconds, memory and test accuracies in PyTorch; seconds of a part are scaled to all trials."""
        folder = self.fresh("torch")
        out = folder / "out.json"
        changed = [f"--override={override}" for override in self.overrides(study, overrides)]
        command = [sys.executable, study_torch.__file__, f"--config={self.config(study)}", f"--out={out}"]
        record = self.run([*command, *changed, *words], folder.name)
        result = json.loads(out.read_text())
        if result["run"] < result["trials"]:
            record["scaled"] = {name: result[name] for name in ("run", "trials")} | {"seconds": record["seconds"]}
            record["seconds"] += result["seconds_of_trials"] * (result["trials"] / result["run"] - 1)
        whole = result["trials"] / result["run"]
        record["seconds_of_trials"] = result["seconds_of_trials"] * whole
        return record | {"accuracies": result["accuracies"]}

    def run(
        self, command: Sequence[str], cache: str, sign: Callable[[], bool] | None = None, **environment: str
    ) -> Record:
        """Returns the seconds and the peak memory of a process with the cache folder `cache`.

        If `sign` is not None, also returns the seconds until it returns True. If JAX logs compilations, also returns
        the names of the compiled programs.

        Raises:
          RuntimeError: the process fails.
        """
        time.sleep(REST_SECONDS)
        folder = self.fresh("process")
        usual = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
        place = self.folder / cache
        caches = {"JAXFT_CACHE": str(place), "TORCHINDUCTOR_CACHE_DIR": str(place / "inductor")}
        signed = None
        with (folder / "stderr").open("w") as stderr:
            started = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", LAUNCHER, str(folder / "record.json"), *command],
                env=usual | caches | environment,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
            while sign is not None and signed is None and process.poll() is None:
                time.sleep(0.01)
                signed = time.perf_counter() - started if sign() else None
            code = process.wait()
        said = (folder / "stderr").read_text()
        if code:
            raise RuntimeError(f"exit code {code}, last output: {said.strip()[-500:] or 'nothing'}")
        record = json.loads((folder / "record.json").read_text())
        if sign is not None:
            record["seconds_to_sign"] = signed
        compiled = collections.Counter(COMPILING.findall(said))
        return record | ({"compiled": dict(compiled.most_common())} if compiled else {})

    def config(self, study: str) -> str:
        """Returns the --config argument of a study in `study_configs.py`."""
        return config_of(study, self.data)

    def overrides(self, study: str, more: Sequence[str] = ()) -> tuple[str, ...]:
        """Returns the overrides `more`, after those of a smoke run."""
        return (*(QUICK[study] if self.quick else ()), *more)

    def fresh(self, name: str) -> Path:
        """Returns a new folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))


# --- the measurements -------------------------------------------------------------------------------------------


def seeds(here: Round) -> dict[str, Record]:
    """Measures eight seeds with each executor, in PyTorch, and with torch.compile."""
    known = typing.get_args(typing.get_type_hints(Execution)["executor"])
    for executor in set(EXECUTORS) - set(known):
        print(f"seeds: skipped executor {executor!r}, which does not exist", flush=True)
    chosen = [executor for executor in EXECUTORS if executor in known]
    found = {e: here.ours("seeds", f"execution.executor={e}", cache=e) for e in chosen}
    found["auto, again"] = here.ours("seeds", "execution.executor=auto", cache="auto")
    found["torch"] = here.torch("seeds")
    try:
        found["torch.compile"] = here.torch("seeds", "--compile")
    except RuntimeError as error:  # torch.compile needs a C++ compiler
        found["torch.compile"] = {"error": str(error)}
    return found


def probe(here: Round) -> dict[str, Record]:
    """Measures 32 heads on a frozen network in jaxft, and in PyTorch with features computed in every epoch or once."""
    return {
        "jaxft": here.ours("probe", cache="jaxft"),
        "jaxft, again": here.ours("probe", cache="jaxft"),
        "torch, features once": here.torch("probe", "--cached"),
        "torch, every epoch": here.torch("probe", *([f"--part={here.part}"] if here.part else [])),
    }


def freeze(here: Round) -> dict[str, Record]:
    """Measures four freezing depths, without augmentation (frozen layers run once) and with it."""
    return {
        "jaxft, no augmentation": here.ours("freeze", cache="none"),
        "jaxft, no augmentation, again": here.ours("freeze", cache="none"),
        "torch, no augmentation": here.torch("freeze"),
        "jaxft, augmentation": here.ours("freeze", *AUGMENTATION, cache="augmentation"),
        "torch, augmentation": here.torch("freeze", overrides=AUGMENTATION),
    }


def start(here: Round) -> dict[str, Record]:
    """Measures the time to the end of the first step of the quick start, with an empty cache and again.

    The first step trains the source, without evaluation; the record of the source marks its end. `seconds` is the time
    until then. `seconds_whole` is the time to the end of the process, with one step of one trial and the report.
    """

    def until_first_step() -> Record:
        workdir = here.fresh("workdir")
        words = [f"--config.{override}" for override in FIRST_STEP]
        command = [*OURS, f"--config={QUICKSTART}", f"--workdir={workdir}", *words]
        record = here.run(command, "start", lambda: any(workdir.glob("sources/[!.]*.json")))
        return {"seconds": record.pop("seconds_to_sign"), "seconds_whole": record.pop("seconds")} | record

    return {"cold": until_first_step(), "warm": until_first_step()}


def memory(here: Round) -> dict[str, Record]:
    """Measures eight trials under `vmap` at two widths, with an empty cache and again, and the bytes of one trial."""
    ways = [(f"width {width}{again}", width) for width in WIDTHS for again in ("", ", again")]
    found = {w: here.ours("memory", f"execution.width={n}", cache=f"width-{n}") for w, n in ways}
    return found | {"a trial": trial_bytes(here.config("memory"), here.overrides("memory"))}


def trial_bytes(config: str, overrides: Sequence[str]) -> Record:
    """Returns the bytes of one trial.

    `state`: parameters, momentum, statistics, and the best weights so far. `activations`: arrays that the forward pass
    computes and the backward pass of JAX reads, each counted once, without scratch memory and without recomputation by
    XLA. `temporary`: all temporary memory that XLA reserves for the compiled step.
    """
    import jax
    import jax.numpy as jnp

    from jaxft.core import paths
    from jaxft.study.executors import over_trials
    from jaxft.study.plan import make_plan
    from jaxft.training.forward import apply_network
    from jaxft.training.hparams import make_hparams
    from jaxft.training.losses import cross_entropy
    from jaxft.training.state import init_state, split_variables
    from jaxft.training.step import make_train_step

    trial = make_plan(load_config(config, overrides).study).trials[0]
    phase, data, of = trial.program.phases[-1], trial.images.images.shape, jax.ShapeDtypeStruct
    variables = jax.eval_shape(lambda: trial.model.init(jax.random.key(0), jnp.zeros((1, *data[1:]))))
    params, stats, frozen = split_variables(phase, *(paths.flatten(variables[c]) for c in ("params", "batch_stats")))
    hparams, key = make_hparams(trial.trial.training, trial.layers), of((2,), jnp.uint32)
    state = jax.eval_shape(functools.partial(init_state, phase), params, stats, hparams, key)

    def gradient(state: Any, hparams: Any, images: Any, labels: Any) -> Any:
        def loss(params: Any) -> Any:
            logits, stats = apply_network(phase, params, state.batch_stats, frozen, images, train=True)
            return cross_entropy(logits, labels, hparams).mean(), stats

        return jax.vjp(loss, state.params, has_aux=True)[1]

    batch = of((phase.batch_size, *data[1:]), jnp.uint8), of((phase.batch_size,), jnp.int32)
    derived = jax.make_jaxpr(gradient)(state, hparams, *batch).jaxpr
    read = {id(variable): variable.aval for variable in derived.outvars if variable not in derived.invars}

    def of_one(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: of((1, *leaf.shape), leaf.dtype), tree)

    own = of_one((state, hparams, of(data[:1], jnp.int32), of((phase.num_steps, phase.batch_size), jnp.int32)))
    step = jax.jit(over_trials(make_train_step(phase), 1, num_shared=2)).lower(*own, frozen, of(data, jnp.uint8))
    return {
        "state": num_bytes(jax.tree.leaves((state, params, stats))),
        "activations": num_bytes(list(read.values())),
        "temporary": step.compile().memory_analysis().temp_size_in_bytes,
    }


def num_bytes(arrays: Sequence[Any]) -> int:
    """Returns the bytes of arrays, or of shape structs."""
    return sum(array.size * array.dtype.itemsize for array in arrays)


def compilations(here: Round) -> dict[str, Record]:
    """Counts the programs that XLA compiles for 32 trials that differ only in numbers, from the log of JAX."""
    return {"jaxft": here.ours("numbers", cache="jaxft", JAX_LOG_COMPILES="1")}


MEASURES: dict[str, Callable[..., dict[str, Record]]] = {
    measure.__name__: measure for measure in (seeds, probe, freeze, start, memory, compilations)
}
STUDY_OF = {"compilations": "numbers"} | {name: name for name in ("seeds", "probe", "freeze", "memory")}
RATIOS = {  # name: (numerator, denominator)
    "seeds": {
        **{f"{executor} / sequential": (executor, "sequential") for executor in EXECUTORS[1:]},
        "jaxft / torch": ("auto", "torch"),
        "jaxft again / torch": ("auto, again", "torch"),
        "jaxft / torch.compile": ("auto", "torch.compile"),
    },
    "probe": {
        f"{torch} / {ours}": (torch, ours)
        for torch in ("torch, every epoch", "torch, features once")
        for ours in ("jaxft", "jaxft, again")
    },
    "freeze": {
        f"torch / jaxft, {how}{again}": (f"torch, {how}", f"jaxft, {how}{again}")
        for how, again in (("no augmentation", ""), ("no augmentation", ", again"), ("augmentation", ""))
    },
    "start": {"warm / cold": ("warm", "cold")},
}


# --- summaries --------------------------------------------------------------------------------------------------


def summarize(measure: str, rounds: Sequence[Mapping[str, Record]]) -> dict[str, Any]:
    """Returns the medians over the rounds for each way, and the derived figures."""
    ways = {way: medians([one[way] for one in rounds]) for way in rounds[0]}
    pairs = RATIOS.get(measure, {}).items()
    seconds = {way: found["seconds"] for way, found in ways.items() if "seconds" in found}
    figures = {name: seconds[a] / seconds[b] for name, (a, b) in pairs if a in seconds and b in seconds}
    if measure == "probe":
        alone = {way: found["seconds_of_trials"] for way, found in ways.items()}
        figures["the trials alone: torch, features once / jaxft, again"] = (
            alone["torch, features once"] / alone["jaxft, again"]
        )
    if measure == "memory":
        alone = ways["a trial"]
        for again in ("", ", again"):
            narrow, wide = (ways[f"width {width}{again}"] for width in WIDTHS)
            further = (wide["peak_bytes"] - narrow["peak_bytes"]) / (wide["width"] - narrow["width"])
            for part in ("activations", "temporary"):
                figures[f"a further trial / state and {part}{again}"] = further / (alone["state"] + alone[part])
    if measure == "compilations":
        figures["programs compiled"] = sum(ways["jaxft"]["compiled"].values())
    return {"ways": ways, "figures": figures}


def medians(records: Sequence[Record]) -> Record:
    """Returns one record: medians of numbers, mean accuracy, and other values from the last record."""
    whole = [record for record in records if "error" not in record]
    if not whole:
        return records[-1]
    found = dict(whole[-1])
    for name, value in found.items():
        if isinstance(value, int | float):
            found[name] = statistics.median(record[name] for record in whole)
    if "accuracies" in found:
        found["trials"] = found.get("scaled", {}).get("trials", len(found["accuracies"]))
        found["accuracy"] = statistics.mean(found.pop("accuracies"))
    return found


def table(results: Mapping[str, Any]) -> str:
    """Returns a table with one line per way, followed by the figures of each measurement."""
    lines = [f"{'measure':14}{'way':28}{'seconds':>9}{'s/trial':>9}{'peak MB':>9}{'test %':>8}"]
    for measure, result in results.items():
        for way, found in result["ways"].items():
            lines.append(f"{measure:14}{way:28}{cells(found)}")
            lines += [f"{'':14}  {name:56}{count:5}" for name, count in found.get("compiled", {}).items()]
        lines += [f"{measure:14}{name:56}{figure:8.3f}" for name, figure in result["figures"].items()]
    return "\n".join(lines)


def cells(found: Record) -> str:
    """Returns the numbers of a way as text, or the reason why it failed."""
    if "error" in found:
        return f"failed: {found['error'].splitlines()[-1]}"
    if "state" in found:
        return ", ".join(f"{name} {value / 1e6:.1f} MB" for name, value in found.items())
    text = f"{found['seconds']:9.1f}"
    text += f"{found['seconds'] / found['trials']:9.2f}" if "trials" in found else f"{'':9}"
    text += f"{found['peak_bytes'] / 1e6:9.0f}"
    text += f"{100 * found['accuracy']:8.1f}" if "accuracy" in found else ""
    return text + ("  (scaled from {run} of {trials} trials)".format(**found["scaled"]) if "scaled" in found else "")


def config_of(study: str, data: Path | None) -> str:
    """Returns the --config argument of a study in `study_configs.py`, with data in the folder `data`."""
    return f"{HERE / 'study_configs.py'}:{study}" + ("" if data is None else f",{data}")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the missing rounds, prints the table, and writes the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measures", nargs="*", choices=(*MEASURES, "all"), default="all")
    parser.add_argument("--data", type=Path, help="folder of weights/ and images/ (default: jaxft's data folders)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="all trials of the slow PyTorch probe (hours)")
    parser.add_argument("--quick", action="store_true", help="smoke run: smallest sizes, one round, no output file")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    measures = list(MEASURES) if "all" in args.measures else args.measures
    os.environ["JAX_PLATFORMS"] = "cpu"  # for all processes, because PyTorch runs on the CPU
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # as jaxft commands set for themselves
    try:
        for measure in STUDY_OF.keys() & set(measures):
            load_config(config_of(STUDY_OF[measure], args.data))
    except UserError as error:
        parser.exit(2, f"{error}\n")
    keeps, part = not args.quick, None if args.whole else PROBE_PART
    results: dict[str, Any] = json.loads(args.out.read_text())["results"] if keeps and args.out.exists() else {}
    for measure in measures:
        rounds = results.setdefault(measure, {"rounds": []})["rounds"]
        while len(rounds) < (args.rounds if keeps else 1):
            load = os.getloadavg()[0]
            with tempfile.TemporaryDirectory() as folder:
                rounds.append(
                    MEASURES[measure](Round(args.data and args.data.resolve(), Path(folder), args.quick, part))
                )
            results[measure] |= summarize(measure, rounds)
            results[measure].setdefault("load_before", []).append(load)  # shows whether the machine was idle
            if keeps:
                record = {"results": results, **environment(), "GLIBC_TUNABLES": os.environ["GLIBC_TUNABLES"]}
                args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(table({measure: results[measure] for measure in measures}))


if __name__ == "__main__":
    main()
