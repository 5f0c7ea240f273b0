"""Measures the speed of analyses of parameters, for the parameters of a ResNet-50 (25.6 million, float32).

    python benchmarks/analysis.py

All ways of a comparison run alternately in one process, for several rounds, and the script compares medians. The
comparisons are:

- all elementwise measures of 20 runs in memory (2 GB), per filter, leaf and layer, with one `sum(x * x)` over the same
  bytes, and with a loop in NumPy over runs and leaves that computes the same measures per leaf;
- runs that are streamed from safetensors files, with the time to read the same files;
- matrices of all pairs of 20 runs for each layer, with the products of the weights by BLAS in NumPy and by XLA;
- singular values of the change of all kernels, on their own.

The machine should be idle.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from finetune import environment
from safetensors.numpy import load_file, save_file

from jaxft.analysis.pairs import pairs
from jaxft.analysis.parameters import changes
from jaxft.analysis.sources import streamed_changes
from jaxft.analysis.spectra import spectra
from jaxft.models import create_model

OUT = Path(__file__).resolve().parent / "results" / "analysis.json"
NUM_RUNS = 20
Ways = Mapping[str, Callable[[], Any]]


def parameters_of_runs() -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Returns the parameters of a ResNet-50 by name, [...], and of runs that differ from it by about 1%, [R, ...]."""
    structure = create_model("resnet50", 1000).structure
    draws = np.random.default_rng(0).standard_normal(1 << 21, np.float32)
    factors = 0.01 * jnp.cos(jnp.arange(NUM_RUNS, dtype=jnp.float32))

    @jax.jit
    def moved(w: jax.Array) -> jax.Array:
        return w[None] + factors.reshape(-1, *[1] * w.ndim) * jnp.roll(w, 1)[None]

    shapes = {name: structure.shapes[f"params/{name}"] for name in structure.parameters}
    before = {name: jnp.asarray(np.resize(draws[i:], shape)) for i, (name, shape) in enumerate(shapes.items())}
    return before, jax.block_until_ready({name: moved(w) for name, w in before.items()})


def compare(ways: Ways, rounds: int) -> dict[str, float]:
    """Returns the median seconds of each way. The first round is a warmup."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def numpy_changes(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> Iterator[tuple[float, ...]]:
    """Yields the measures of each leaf of each run, as people compute them in NumPy."""
    for name, w0 in before.items():
        for w in after[name]:
            delta = w - w0
            norms = [np.sqrt((x * x).sum()) for x in (delta, w0, w)]
            flips = (np.sign(w) * np.sign(w0) < 0).mean()
            cosine = (w * w0).sum() / (norms[1] * norms[2])
            yield norms[0], norms[0] / norms[1], norms[0] / np.sqrt(w.size), cosine, flips, np.abs(delta).max()


def measure_elementwise(before: dict[str, jax.Array], after: dict[str, jax.Array], rounds: int) -> dict[str, Any]:
    """Returns the seconds and ratios of all elementwise measures, of a sum of squares, and of NumPy."""
    squares = jax.jit(lambda x: jnp.sum(x * x))
    on_host = [{name: np.asarray(leaf) for name, leaf in tree.items()} for tree in (before, after)]
    ways: dict[str, Callable[[], Any]] = {
        "jaxft": lambda: changes(before, after),
        "sum(x * x)": lambda: [squares(leaf) for leaf in after.values()],
    }
    seconds = compare(ways, rounds) | compare({"numpy": lambda: list(numpy_changes(*on_host)) and None}, 1)
    return {
        "seconds": seconds,
        "over_sum": seconds["jaxft"] / seconds["sum(x * x)"],
        "numpy_over_jaxft": seconds["numpy"] / seconds["jaxft"],
    }


def measure_streamed(
    before: dict[str, jax.Array], after: dict[str, jax.Array], folder: Path, num_files: int, rounds: int
) -> dict[str, Any]:
    """Returns the seconds and the ratio of changes streamed from files, and of reading the files."""
    paths = [folder / f"{i}.safetensors" for i in range(num_files)]
    for i, path in enumerate(paths):
        save_file({name: np.asarray(leaf[i % NUM_RUNS]) for name, leaf in after.items()}, path)
    ways: dict[str, Callable[[], Any]] = {
        "jaxft": lambda: streamed_changes(before, paths) and None,
        "read": lambda: [load_file(path) and None for path in paths],
    }
    seconds = compare(ways, rounds)
    return {"num_files": num_files, "seconds": seconds, "over_read": seconds["jaxft"] / seconds["read"]}


def measure_pairs(before: dict[str, jax.Array], after: dict[str, jax.Array], rounds: int) -> dict[str, Any]:
    """Returns the seconds and ratios of the matrices of all pairs, and of products of the weights."""
    on_host = [np.asarray(leaf).reshape(NUM_RUNS, -1) for leaf in after.values()]
    product = jax.jit(lambda x: jnp.matmul(x.reshape(NUM_RUNS, -1), x.reshape(NUM_RUNS, -1).T, precision="highest"))
    ways: dict[str, Callable[[], Any]] = {
        "jaxft": lambda: pairs(after, {"pretrained": before}) and None,
        "numpy product": lambda: [x @ x.T for x in on_host],
        "xla product": lambda: [product(leaf) for leaf in after.values()],
    }
    seconds = compare(ways, rounds)
    ratios = {f"over_{name.partition(' ')[0]}": seconds["jaxft"] / seconds[name] for name in list(ways)[1:]}
    return {"seconds": seconds} | ratios


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the seconds and ratios, and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=100, help="number of streamed files, of 102 MB each")
    parser.add_argument("--folder", type=Path, help="folder for the files; if omitted, the system's temporary folder")
    parser.add_argument("--without-spectra", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    load_before = os.getloadavg()[0]
    before, after = parameters_of_runs()
    results: dict[str, Any] = {}

    def record(name: str, result: dict[str, Any]) -> None:
        results[name] = result
        times = ", ".join(f"{way} {value:.2f} s" for way, value in result["seconds"].items())
        ratios = ", ".join(f"{key} {value:.2f}" for key, value in result.items() if key != "seconds")
        print(f"{name:24}{times}; {ratios}", flush=True)

    record("elementwise measures", measure_elementwise(before, after, args.rounds))
    record("pairs", measure_pairs(before, after, args.rounds))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        record("streamed", measure_streamed(before, after, Path(folder), args.files, max(args.rounds // 2, 1)))
    if not args.without_spectra:
        one_run = {name: leaf[0] for name, leaf in after.items()}
        record("spectra of one run", {"seconds": compare({"jaxft": lambda: spectra(before, one_run)}, 1)})
    found = {"results": results, "load_before": load_before, "rounds": args.rounds, **environment()}
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
