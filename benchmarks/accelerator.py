"""Measures the speed of jaxft on an accelerator in less than nine minutes; needs only the package.

    python benchmarks/accelerator.py

Each result is printed and written to `results/accelerator.json` immediately, so an interrupted run keeps its results.
On a CPU, the script runs a small version, which shows that everything runs, not how fast. Images are random.

If PyTorch is installed and supports the device, each training step is compared with a compiled PyTorch network with
automatic mixed precision and channels last. Fractions of the peak are relative to a matrix product in the same
precision, and to a copy in memory, both measured by this script.
"""

import argparse
import functools
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxft
from jaxft.analysis import parameters
from jaxft.cli import restart_with
from jaxft.config import Study, from_dict
from jaxft.core.compile_cache import keep_compiled
from jaxft.core.devices import device_name, fast_environment
from jaxft.models.cost import block_costs
from jaxft.ops.precision import products
from jaxft.recipes.run_record import versions
from jaxft.study.chunk.memory import needed_bytes
from jaxft.study.chunk.timing import example_steps
from jaxft.study.examples import example_images, example_lane
from jaxft.study.executors import Executor, Sequential, Vmap
from jaxft.study.plan import make_plan

OUT = Path(__file__).resolve().parent / "results" / "accelerator.json"
PRECISIONS = ("float32", "tf32", "bfloat16")
ROUNDS = 5


class Size:
    """Sizes of the measurements: for an accelerator, or the small version for a CPU."""

    def __init__(self, is_small: bool):
        self.is_small = is_small
        self.large, self.large_px, self.batch_size = ("resnet50", 64, 4) if is_small else ("resnet50", 224, 128)
        self.steps = 1 if is_small else 20
        self.seeds = (2, 4) if is_small else (8, 32)
        self.matrix = 512 if is_small else 8192
        self.copied = 1 << (22 if is_small else 30)  # bytes
        self.runs = 10 if is_small else 100
        self.studied = ("cifar_resnet8", 12) if is_small else ("resnet50", 224)


class Table:
    """Prints one line per measurement, and writes all of them to a file."""

    def __init__(self, path: Path):
        self.path = path
        self.found: dict[str, Any] = {"device": device_name(), "versions": versions(), "measures": {}}

    def add(self, name: str, **values: float | str) -> None:
        """Prints a measurement and writes all measurements to the file."""
        self.found["measures"][name] = {
            key: v if isinstance(v, str) else float(f"{v:.5g}") for key, v in values.items()
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.found, indent=1) + "\n")
        words = (f"{key} {value if isinstance(value, str) else f'{value:.4g}'}" for key, value in values.items())
        print(f"{name:<46} {'   '.join(words)}", flush=True)


def median_seconds(run: Callable[[], Any]) -> float:
    """Returns the median time in seconds of a blocking call, after a first call that compiles."""
    run()
    taken = []
    for _ in range(2 if jax.default_backend() == "cpu" else ROUNDS):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


# --- the machine ------------------------------------------------------------------------------------------------


@functools.cache
def matrix_peak(size: int, precision: str) -> float:
    """Returns the floating-point operations per second of a square matrix product."""
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    x = jnp.ones((size, size), dtype)
    with products(precision):  # type: ignore[arg-type]
        run = jax.jit(jnp.matmul).lower(x, x).compile()
    return 2 * size**3 / median_seconds(lambda: jax.block_until_ready(run(x, x)))


@functools.cache
def bandwidth(num_bytes: int) -> float:
    """Returns the bytes per second that are read and written while an array is copied."""
    x = jnp.ones(num_bytes // 4, jnp.float32)
    run = jax.jit(lambda x: x + 1)
    return 2 * num_bytes / median_seconds(lambda: jax.block_until_ready(run(x)))


def peak_bytes() -> float | str:
    """Returns the peak memory use of the device so far, in bytes."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", "not reported by this device")


# --- studies ----------------------------------------------------------------------------------------------------


def random_images(folder: Path, size_px: int, per_class: int) -> Path:
    """Returns the path of an .npz file of random images of four classes."""
    rng = np.random.Generator(np.random.PCG64(0))
    path = folder / f"images{size_px}-{per_class}.npz"
    if not path.exists():
        labels = np.repeat(np.arange(4), per_class)
        np.savez(path, images=rng.integers(0, 256, (len(labels), size_px, size_px, 3), np.uint8), labels=labels)
    return path


def make_study(model: str, images: Path, batch_size: int, **fields: Any) -> Study:
    """Returns a study with random initial weights."""
    training = fields.pop("training", {"schedule.epochs": 1.0, "batches.size": batch_size}) | {
        "initialization.start": "random"
    }
    target = {"data": str(images), "val_fraction": 0.2, "test_fraction": 0.2}
    return from_dict(Study, {"source": {"model": model}, "target": target, "training": training, "seeds": 1} | fields)


def step_seconds(study: Study, executor: Executor, num_steps: int) -> tuple[float, float]:
    """Returns the seconds per training step, in loops of `num_steps` steps, and the seconds of compilation."""
    group = make_plan(study).groups[0]
    lane, images = example_lane(group.trials[0]), example_images(group.trials[0], study.execution)
    start = time.perf_counter()
    run = example_steps(group.program.phases[-1], lane, images, executor)
    run(1)
    compiling = time.perf_counter() - start
    return median_seconds(lambda: run(num_steps)) / num_steps, compiling


def steps_of_a_network(size: Size, table: Table, folder: Path) -> None:
    """Measures a training step of ResNet-50 in each precision, its memory, and the same step in PyTorch."""
    images = random_images(folder, size.large_px, 2 * size.batch_size)
    for precision in PRECISIONS:
        study = make_study(size.large, images, size.batch_size, execution={"precision": precision})
        seconds, compiling = step_seconds(study, Sequential(), size.steps)
        network = make_plan(study).trials[0].model
        macs = sum(unit.num_macs for unit in block_costs(network, size.large_px))
        rate = 3 * 2 * macs * size.batch_size / seconds
        found: dict[str, float | str] = {
            "ms": 1e3 * seconds,
            "images_s": size.batch_size / seconds,
            "of_matrix_peak": rate / matrix_peak(size.matrix, precision),
            "compile_s": compiling,
            "peak_bytes": peak_bytes(),
        }
        if (by_torch := torch_seconds(size, precision)) is not None:
            found |= {"torch_ms": 1e3 * by_torch, "ours_by_torch": seconds / by_torch}
        table.add(f"{size.large} {size.batch_size} x {size.large_px} px, {precision}", **found)
    for name, execution in {"float32": {}, "remat": {"remat": True}, "bfloat16": {"precision": "bfloat16"}}.items():
        study = make_study(size.large, images, size.batch_size, execution=execution)
        group = make_plan(study).groups[0]
        lane, pixels = example_lane(group.trials[0]), example_images(group.trials[0], study.execution)
        needed = needed_bytes(group.program, lane, pixels, Sequential())
        table.add(f"{size.large} {size.batch_size} x {size.large_px} px, memory, {name}", program_bytes=needed)


def torch_resnet50(num_classes: int) -> Any:
    """Returns ResNet-50 in PyTorch (He et al. 2016, the stride in the 3x3 convolution)."""
    from torch import Tensor, nn

    def conv_norm(inputs: int, features: int, kernel: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(inputs, features, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(features)]

    class Bottleneck(nn.Module):
        def __init__(self, inputs: int, features: int, stride: int):
            super().__init__()
            first, second = conv_norm(inputs, features, 1), conv_norm(features, features, 3, stride)
            self.branch = nn.Sequential(*first, nn.ReLU(), *second, nn.ReLU(), *conv_norm(features, 4 * features, 1))
            is_same = inputs == 4 * features and stride == 1
            self.shortcut = nn.Sequential(*([] if is_same else conv_norm(inputs, 4 * features, 1, stride)))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.relu(self.branch(x) + self.shortcut(x))

    blocks, inputs = [], 64
    for stage, count in enumerate((3, 4, 6, 3)):
        for block in range(count):
            blocks.append(Bottleneck(inputs, 64 << stage, 2 if stage and not block else 1))
            inputs = 256 << stage
    stem = [*conv_norm(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes))


def torch_seconds(size: Size, precision: str) -> float | None:
    """Returns the seconds of the same step in PyTorch, or None if PyTorch or its support of the device is missing.

    The small version does not compile the network, which would take longer than everything else.
    """
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not size.is_small and not torch.cuda.is_available():
        return None
    device = "cpu" if size.is_small else "cuda"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    network = torch_resnet50(4).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    run = network if size.is_small else torch.compile(network)
    x = torch.rand(size.batch_size, 3, size.large_px, size.large_px, device=device)
    x, y = x.to(memory_format=torch.channels_last), torch.zeros(size.batch_size, dtype=torch.long, device=device)

    def steps() -> None:
        for _ in range(size.steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
                loss = torch.nn.functional.cross_entropy(run(x), y)
            loss.backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return median_seconds(steps) / size.steps


def seeds_side_by_side(size: Size, table: Table, folder: Path) -> None:
    """Measures a step of several seeds of ResNet-20 under `vmap`, and one after another."""
    study = make_study("cifar_resnet20", random_images(folder, 32, 128), 32 if size.is_small else 128)
    alone, _ = step_seconds(study, Sequential(), size.steps)
    for seeds in size.seeds:
        together, compiling = step_seconds(study, Vmap(seeds), size.steps)
        figures = {"vmap_ms": 1e3 * together, "sequential_ms": 1e3 * seeds * alone, "faster": seeds * alone / together}
        table.add(f"cifar_resnet20 32 px, {seeds} seeds", **figures, compile_s=compiling)


def small_studies(size: Size, table: Table, folder: Path) -> None:
    """Measures whole studies: freezing depths, and a linear probe."""
    model, size_px = size.studied
    images = random_images(folder, size_px, 64)
    depths = {"training.layers.rates": [[], [["stem/.*", "frozen"]], [["(stem|stage).*", "frozen"]]]}
    studies = {
        "freezing": make_study(model, images, 32, factors=[depths], seeds=2),
        "a linear probe": make_study(model, images, 32, training={"classifier.kind": "logistic"}, seeds=2),
    }
    for name, study in studies.items():
        start = time.perf_counter()
        results = jaxft.run_study(study, folder / name, quiet=True)
        assert (results["status"] == "done").all()
        spent = json.loads(next((folder / name / "runs").glob("*.json")).read_text())["spent"]
        found = {"s": time.perf_counter() - start, "compile_s": spent.get("compile", 0.0)}
        table.add(f"study of {name}, {model} {size_px} px, {len(results)} trials", **found)


def distances(size: Size, table: Table, folder: Path) -> None:
    """Measures the parameter distances of many runs of ResNet-20, relative to copying as many bytes."""
    group = make_plan(make_study("cifar_resnet20", random_images(folder, 32, 128), 32)).groups[0]
    params = {name: jnp.asarray(leaf) for name, leaf in example_lane(group.trials[0]).params.items()}
    after = {name: jnp.stack([leaf * (1 + 1e-3 * run) for run in range(size.runs)]) for name, leaf in params.items()}
    seconds = median_seconds(lambda: jax.block_until_ready(parameters.changes(params, after)))
    num_bytes = sum(leaf.nbytes for leaf in after.values())
    found = {"ms": 1e3 * seconds, "of_bandwidth": num_bytes / seconds / bandwidth(size.copied)}
    table.add(f"parameter distances of {size.runs} runs of cifar_resnet20", **found)


MEASURES = (steps_of_a_network, seeds_side_by_side, distances, small_studies)


def main() -> None:
    """Runs all measurements that fit into the time limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE", help="JSON file for the results")
    parser.add_argument("--seconds", type=float, default=500.0, help="time limit in s (default: 500)")
    args = parser.parse_args()
    restart_with(fast_environment())
    keep_compiled()
    size, table, start = Size(jax.default_backend() == "cpu"), Table(args.out), time.perf_counter()
    print(f"{table.found['device']}{' (small version: says nothing about speed)' if size.is_small else ''}")
    for precision in PRECISIONS:
        table.add(f"matrix product, {precision}", tflop_s=matrix_peak(size.matrix, precision) / 1e12)
    table.add("copy", gb_s=bandwidth(size.copied) / 1e9)
    with tempfile.TemporaryDirectory() as folder:
        for measure in MEASURES:
            if time.perf_counter() - start > args.seconds:
                print(f"skipped, because the time limit is reached: {measure.__name__}")
            else:
                measure(size, table, Path(folder))
    print(f"{time.perf_counter() - start:.0f} s; results in {args.out}")


if __name__ == "__main__":
    main()
