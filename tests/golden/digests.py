"""Digests of the StableHLO text of named programs, `digests.json`: `python tests/golden/digests.py` writes them.

A change that only moves code leaves every digest as it is. One that changes programs writes them anew, and shows with
`tests/golden/compare.py` that one step computes the same. They are taken in a process of their own, as JAX's caches
decide the order of functions in a text. Digests are those of one version of JAX and Flax and Optax;
the table keeps those of all versions that it was written with.
"""

import collections
import hashlib
import json
import os
import re
import sys
from importlib.metadata import version
from pathlib import Path

if __name__ == "__main__":  # as tests/conftest.py has it
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
from golden.programs import EXECUTORS, FAMILIES, PROCEDURES, other_programs, programs_of

from jaxft.ops import convolution

TABLE = Path(__file__).with_suffix(".json")


def versions():
    """Returns what decides the text of a program besides jaxft."""
    return ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax"))


def named_programs():
    """Yields (name, function, shapes of its arguments) of some forty programs."""
    for model, size_px in FAMILIES.items():
        for name, function, args in programs_of(model, size_px):
            if name in ("train", "evaluate") or model == "cifar_resnet8":
                yield f"{model}: {name}", function, args
    for kind, executor in EXECUTORS.items():
        for name, function, args in programs_of("toy", 8, executor=executor):
            if name in ("train", "evaluate") and kind != "sequential":
                yield f"{kind}: {name}", function, args
    for training, fields in PROCEDURES.items():
        count = collections.Counter()
        for name, function, args in programs_of("toy", 12, fields):
            count[name] += 1
            if name in ("train", "moments", "merge"):
                yield f"{training}: {name} {count[name]}", function, args
    for name, (function, args) in other_programs().items():
        yield f"other: {name}", function, args


def digest_of(function, args):
    """Returns 16 hexadecimal digits of a program's StableHLO for a CPU, with XLA's convolutions."""
    jitted = function if hasattr(function, "lower") else jax.jit(function)  # pmap's is hidden in it
    return hashlib.sha256(without_names(jitted.lower(*args).as_text()).encode()).hexdigest()[:16]


def without_names(text):
    """Returns the text of a program in which functions are numbered, and results have no names of Python's."""
    text = re.sub(r'jax\.result_info = "[^"]*"', "", text)
    text = re.sub(r"^module @\S+", "module", text)
    numbers = {name: f"@f{i}" for i, name in enumerate(re.findall(r"func\.func \w+ (@[\w.]+)", text))}
    return re.sub(r"@[\w.]+", lambda found: numbers.get(found[0], found[0]), text)


def current():
    """Returns the digest of every named program, by its name."""
    with convolution.use("xla"):
        return {name: digest_of(function, args) for name, function, args in named_programs()}


def table():
    """Returns the committed digests by `versions()`."""
    return json.loads(TABLE.read_text()) if TABLE.is_file() else {}


def changed(before, after):
    """Returns the names of programs whose digest differs between two tables, or that only one of them has."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def main():
    """Writes the table, or with `--check` only says what changed; returns the exit code."""
    import helpers  # noqa: F401  (the network 'toy')

    jax.config.update("jax_numpy_rank_promotion", "raise")
    before, found = table(), current()
    names = changed(before.get(versions(), found), found)
    for name in names:
        print(f"changed: {name}")
    if "--check" in sys.argv:
        return int(bool(names))
    TABLE.write_text(json.dumps(before | {versions(): found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
