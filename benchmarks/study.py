"""Measures whole studies side by side: ours, by each executor, and the same written plainly in PyTorch.

    python benchmarks/study.py                                        # all measures
    python benchmarks/study.py seeds memory --data FOLDER --rounds 5

seeds: eight seeds of one setting; probe: 32 linear heads on a frozen network; freeze: four depths of freezing with four
seeds; start: until the first step of the quickstart ends; memory: what a further trial under `vmap` takes;
compilations: how many programs XLA compiles for 32 trials that differ in numbers only. The studies are in
`study_configs.py`, the PyTorch side in `study_torch.py`.

What is timed is a whole process, from its start to its exit, on the CPU with all cores. Each has an empty cache folder,
so that it decodes, measures and compiles everything, but for those that run "again" after another, in its folder. They
take turns, round after round, and medians are compared. Neither side keeps weights; ours also measures how far the
parameters moved and writes its report, which PyTorch does not. Each round is written as it comes, and what the file
holds is not done again. PyTorch (2.13) is needed, and the machine should be idle. Both sides have the same
GLIBC_TUNABLES: "glibc.malloc.hugetlb=1" (large pages), or what the variable says.
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
from study_configs import BESIDE_THE_CLONE

from jaxft import UserError
from jaxft.config import Execution, load_config

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "study.json"
QUICKSTART = HERE.parent / "configs" / "quickstart.py"
REST_SECONDS = 2.0  # before each process, so that nothing of the one before is still at work
OURS = (sys.executable, "-P", "-m", "jaxft.cli", "study")
EXECUTORS = ("in_turn", "vmap", "workers", "auto")
PROBE_PART = 2  # trials of the probe whose frozen network PyTorch runs in every epoch: each takes minutes
WIDTHS = (2, 8)
AUGMENTATION = ("training.augmentation.crop.padding_px=4", "training.augmentation.flip.enabled=True")
# One step of its source network, without evaluation; then one of a single trial, as a study has one at least.
FIRST_STEP = (
    "source.training.schedule.epochs=0.08",
    "source.images.val_per_class=0",
    "source.images.tested=False",
    "seeds=1",
    "factors=[{'training.initialization.start': ['pretrained'], 'training.layers.backbone_learning_rate': ['frozen']}]",
    "training.schedule.epochs=0.5",
)
# What a smoke run overrides.
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
# Runs a command and writes its seconds and its peak of resident memory. The largest of its processes counts; so small a
# parent is needed because a child's peak begins at its parent's.
LAUNCHER = """
import json, pathlib, resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.call(sys.argv[2:])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
pathlib.Path(sys.argv[1]).write_text(json.dumps({"seconds": seconds, "peak_bytes": peak}))
sys.exit(code if code >= 0 else 128 - code)  # of a killed one, as shells do
"""
OF_TRIALS = ("compile", "train", "evaluate")  # of what a study says it spent: what a loop over trials does too
COMPILING = re.compile(r"Compiling (\S+) with global shapes")  # JAX's words
Record = dict[str, Any]


# --- processes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """A round of a measure.

    It has the folder of the data, a folder of its own, whether it is a smoke run, and how many trials of the slow probe
    PyTorch runs (none: all).
    """

    data: Path
    folder: Path
    quick: bool
    part: int | None

    def ours(self, study: str, *overrides: str, cache: str, **environment: str) -> Record:
        """Returns what a process took that runs a study with jaxft, its test accuracies, and how many ran together."""
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
        """Returns the same of PyTorch; where it ran a part of the trials its seconds are scaled to all of them."""
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
        """Returns seconds and peak memory of a process whose cache folder is `cache`; RuntimeError where it fails.

        With a `sign` it returns the seconds until that is given, too, and with JAX's log what XLA compiled, by name.
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
            raise RuntimeError(f"exit code {code}, at last it said: {said.strip()[-500:] or 'nothing'}")
        record = json.loads((folder / "record.json").read_text())
        if sign is not None:
            record["seconds_to_sign"] = signed
        compiled = collections.Counter(COMPILING.findall(said))
        return record | ({"compiled": dict(compiled.most_common())} if compiled else {})

    def config(self, study: str) -> str:
        """Returns what names a study of `study_configs.py` with these data."""
        return f"{HERE / 'study_configs.py'}:{study},{self.data}"

    def overrides(self, study: str, more: Sequence[str] = ()) -> tuple[str, ...]:
        """Returns the overrides `more`, and ahead of them those of a smoke run."""
        return (*(QUICK[study] if self.quick else ()), *more)

    def fresh(self, name: str) -> Path:
        """Returns a new folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))


# --- the measures: from a round to what each way took, in turn ----------------------------------------------------


def seeds(here: Round) -> dict[str, Record]:
    """Returns eight seeds by each executor, and in PyTorch as it is and with torch.compile."""
    known = typing.get_args(typing.get_type_hints(Execution)["executor"])
    for executor in set(EXECUTORS) - set(known):
        print(f"seeds: there is no executor {executor!r} yet; it is left out", flush=True)
    chosen = [executor for executor in EXECUTORS if executor in known]
    found = {e: here.ours("seeds", f"execution.executor={e}", cache=e) for e in chosen}
    found["auto, again"] = here.ours("seeds", "execution.executor=auto", cache="auto")
    found["torch"] = here.torch("seeds")
    try:
        found["torch.compile"] = here.torch("seeds", "--compile")
    except RuntimeError as error:  # it needs a compiler on the machine
        found["torch.compile"] = {"error": str(error)}
    return found


def probe(here: Round) -> dict[str, Record]:
    """Returns 32 heads on a frozen network: ours, and PyTorch's whose network runs in every epoch, or once for all."""
    return {
        "jaxft": here.ours("probe", cache="jaxft"),
        "jaxft, again": here.ours("probe", cache="jaxft"),
        "torch, features once": here.torch("probe", "--cached"),
        "torch, every epoch": here.torch("probe", *([f"--part={here.part}"] if here.part else [])),
    }


def freeze(here: Round) -> dict[str, Record]:
    """Returns four depths of freezing: without augmentation, so that ours computes what is frozen once, and with it."""
    return {
        "jaxft, no augmentation": here.ours("freeze", cache="none"),
        "jaxft, no augmentation, again": here.ours("freeze", cache="none"),
        "torch, no augmentation": here.torch("freeze"),
        "jaxft, augmentation": here.ours("freeze", *AUGMENTATION, cache="augmentation"),
        "torch, augmentation": here.torch("freeze", overrides=AUGMENTATION),
    }


def start(here: Round) -> dict[str, Record]:
    """Returns the quickstart until its first step, which trains its source, has ended, with an empty cache and again.

    The sign of the end is the record of the source after that one step, with nothing evaluated. `seconds` are those
    until then; to the end of the process, with one step of one trial and the report, it is `seconds_whole`.
    """

    def until_first_step() -> Record:
        workdir = here.fresh("workdir")
        words = [f"--config.{override}" for override in FIRST_STEP]
        command = [*OURS, f"--config={QUICKSTART}", f"--workdir={workdir}", *words]
        record = here.run(command, "start", lambda: any(workdir.glob("sources/[!.]*.json")))
        return {"seconds": record.pop("seconds_to_sign"), "seconds_whole": record.pop("seconds")} | record

    return {"cold": until_first_step(), "warm": until_first_step()}


def memory(here: Round) -> dict[str, Record]:
    """Returns eight trials under `vmap` at two widths, compiled anew and again, and the bytes of a trial alone."""
    ways = [(f"width {width}{again}", width) for width in WIDTHS for again in ("", ", again")]
    found = {w: here.ours("memory", f"execution.width={n}", cache=f"width-{n}") for w, n in ways}
    return found | {"a trial": trial_bytes(here.config("memory"), here.overrides("memory"))}


def trial_bytes(config: str, overrides: Sequence[str]) -> Record:
    """Returns the bytes of one trial alone.

    `state`: parameters, momentum, statistics, and the best of them so far. `activations`: what the forward pass makes
    and its gradient reads, as JAX derives it, each array once; neither the scratch memory of an algorithm nor what XLA
    may save by computing it anew. `temporary`, for comparison: all that XLA reserves for the compiled step.
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
    """Returns the bytes of arrays, or of what has their shapes."""
    return sum(array.size * array.dtype.itemsize for array in arrays)


def compilations(here: Round) -> dict[str, Record]:
    """Returns what XLA compiled for 32 trials that differ in numbers only, from JAX's own log."""
    return {"jaxft": here.ours("numbers", cache="jaxft", JAX_LOG_COMPILES="1")}


MEASURES: dict[str, Callable[..., dict[str, Record]]] = {
    measure.__name__: measure for measure in (seeds, probe, freeze, start, memory, compilations)
}
STUDY_OF = {"compilations": "numbers"} | {name: name for name in ("seeds", "probe", "freeze", "memory")}
RATIOS = {  # name: (the one way, the other)
    "seeds": {
        **{f"{executor} / in turn": (executor, "in_turn") for executor in EXECUTORS[1:]},
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


# --- what the rounds come to ------------------------------------------------------------------------------------


def summarise(measure: str, rounds: Sequence[Mapping[str, Record]]) -> dict[str, Any]:
    """Returns of each way the medians over the rounds, and the figures that they come to."""
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
    """Returns one record of several: the medians of numbers, the mean accuracy, and all else from the last."""
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
    """Returns the ways of each measure and then its figures, a line each."""
    lines = [f"{'measure':14}{'way':28}{'seconds':>9}{'a trial':>9}{'peak MB':>9}{'test %':>8}"]
    for measure, result in results.items():
        for way, found in result["ways"].items():
            lines.append(f"{measure:14}{way:28}{cells(found)}")
            lines += [f"{'':14}  {name:56}{count:5}" for name, count in found.get("compiled", {}).items()]
        lines += [f"{measure:14}{name:56}{figure:8.3f}" for name, figure in result["figures"].items()]
    return "\n".join(lines)


def cells(found: Record) -> str:
    """Returns the numbers of a way, or why there are none."""
    if "error" in found:
        return f"failed: {found['error'].splitlines()[-1]}"
    if "state" in found:
        return ", ".join(f"{name} {value / 1e6:.1f} MB" for name, value in found.items())
    text = f"{found['seconds']:9.1f}"
    text += f"{found['seconds'] / found['trials']:9.2f}" if "trials" in found else f"{'':9}"
    text += f"{found['peak_bytes'] / 1e6:9.0f}"
    text += f"{100 * found['accuracy']:8.1f}" if "accuracy" in found else ""
    return text + ("  (scaled from {run} of {trials} trials)".format(**found["scaled"]) if "scaled" in found else "")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the rounds that are missing, prints the table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measures", nargs="*", choices=(*MEASURES, "all"), default="all")
    parser.add_argument("--data", type=Path, default=BESIDE_THE_CLONE, help="folder of weights/ and images/")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="run all trials of PyTorch's slow probe: hours")
    parser.add_argument("--quick", action="store_true", help="a smoke run: the smallest sizes, one round, no file")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    measures = list(MEASURES) if "all" in args.measures else args.measures
    os.environ["JAX_PLATFORMS"] = "cpu"  # of all processes, as PyTorch is on it too
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # as jaxft's commands set it for themselves
    try:
        for measure in STUDY_OF.keys() & set(measures):
            load_config(f"{HERE / 'study_configs.py'}:{STUDY_OF[measure]},{args.data}")
    except UserError as error:
        parser.exit(2, f"{error}\n")
    keeps, part = not args.quick, None if args.whole else PROBE_PART
    results: dict[str, Any] = json.loads(args.out.read_text())["results"] if keeps and args.out.exists() else {}
    for measure in measures:
        rounds = results.setdefault(measure, {"rounds": []})["rounds"]
        while len(rounds) < (args.rounds if keeps else 1):
            load = os.getloadavg()[0]
            with tempfile.TemporaryDirectory() as folder:
                rounds.append(MEASURES[measure](Round(args.data.resolve(), Path(folder), args.quick, part)))
            results[measure] |= summarise(measure, rounds)
            results[measure].setdefault("load_before", []).append(load)  # tells whether the seconds can be trusted
            if keeps:
                record = {"results": results, **environment(), "GLIBC_TUNABLES": os.environ["GLIBC_TUNABLES"]}
                args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(table({measure: results[measure] for measure in measures}))


if __name__ == "__main__":
    main()
