"""Compares networks and convolutions with PyTorch, and networks under `vmap` with sequential ones.

    python benchmarks/convolution.py --weights efficientnet_lite0.imagenet.safetensors

jaxft and PyTorch run alternately in one process, for several rounds, and the script compares medians: a ratio above 1
means that jaxft is slower. Compilation is measured separately. PyTorch uses channels last. The machine should be idle.

The process restarts itself with the environment of the jaxft commands (`devices.fast_environment`), which then also
applies to PyTorch. GLIBC_TUNABLES=glibc.malloc.hugetlb=0 runs both without large pages.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import finetune_torch as plain
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
from finetune import environment

from jaxft.cli import restart_with
from jaxft.core.devices import fast_environment
from jaxft.models import create_model
from jaxft.models.families.cifar_resnet import BasicBlock
from jaxft.models.layers import BatchNorm, conv
from jaxft.ops.convolution import conv_general_dilated, described, implementation
from jaxft.weights import load

OUT = Path(__file__).resolve().parent / "results" / "convolution.json"
LANES = 8
LEAST_SECONDS = 0.1  # short functions are repeated for this long
SPINNING_SECONDS = 0.3  # wait before each run, because idle PyTorch threads keep spinning and take the cores
DEPTHWISE = ((8, 112, 96, 3), (8, 28, 240, 5), (8, 14, 480, 3))  # images, side, channels, kernel
Run = Callable[[], Any]


# --- the networks -----------------------------------------------------------------------------------------------


def blocks(width: int) -> list[tuple[int, int]]:
    """Returns (features, stride) of the blocks of a ResNet-18."""
    return [(width << stage, 2 if stage and not block else 1) for stage in range(4) for block in range(2)]


class ResNet18(nn.Module):
    """ResNet-18 of any width for small images: a stem of one 3x3 convolution."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns logits [n, 10]."""
        x = nn.relu(BatchNorm(name="bn")(conv(self.width, 3, name="conv")(x), train))
        for i, (features, stride) in enumerate(blocks(self.width)):
            x = BasicBlock(features, stride, projection=True, relu_after=True, name=f"block{i}")(x, train)
        return nn.Dense(10)(x.mean((1, 2)))


def conv_norm(inputs: int, features: int, kernel: int, stride: int = 1) -> list[torch.nn.Module]:
    """Returns a convolution and batch norm in PyTorch."""
    convolution = torch.nn.Conv2d(inputs, features, kernel, stride, kernel // 2, bias=False)
    return [convolution, torch.nn.BatchNorm2d(features)]


class TorchBlock(torch.nn.Module):
    """A residual block in PyTorch: two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, features: int, stride: int):
        super().__init__()
        first, second = conv_norm(inputs, features, 3, stride), conv_norm(features, features, 3)
        self.body = torch.nn.Sequential(*first, torch.nn.ReLU(), *second)
        same = stride == 1 and inputs == features
        self.shortcut = torch.nn.Sequential(*([] if same else conv_norm(inputs, features, 1, stride)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's output."""
        return F.relu(self.body(x) + self.shortcut(x))


def torch_resnet18(width: int, imagenet: bool = False) -> torch.nn.Module:
    """Returns ResNet-18 in PyTorch, for small images or, with `imagenet`, for large ones."""
    layers = [*(conv_norm(3, width, 7, 2) if imagenet else conv_norm(3, width, 3)), torch.nn.ReLU()]
    layers += [torch.nn.MaxPool2d(3, 2, 1)] * imagenet
    inputs = width
    for features, stride in blocks(width):
        layers.append(TorchBlock(inputs, features, stride))
        inputs = features
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(inputs, 10))


# --- timing ------------------------------------------------------------------------------------------------------


def make_step(network: nn.Module) -> Callable[..., Any]:
    """Returns a training step `step((variables, opt_state), images, labels)`: SGD with momentum, tracked batch norm."""
    tx = optax.sgd(1e-3, momentum=0.9)

    def step(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        variables, opt_state = state

        def loss_fn(params: Any) -> Any:
            logits, updated = network.apply(variables | {"params": params}, images, True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

        grads, updated = jax.grad(loss_fn, has_aux=True)(variables["params"])
        updates, opt_state = tx.update(grads, opt_state)
        return {"params": optax.apply_updates(variables["params"], updates), **updated}, opt_state

    return step


def init(network: nn.Module, images: jax.Array, seed: int = 0) -> Any:
    """Returns (variables, optimizer state)."""
    variables = network.init(jax.random.key(seed), images, False)
    return variables, optax.sgd(1e-3, momentum=0.9).init(variables["params"])


def compiled(function: Callable[..., Any], *args: Any) -> tuple[Run, float]:
    """Returns a blocking call of the compiled function, and the seconds of compilation."""
    start = time.perf_counter()
    run = jax.jit(function).lower(*args).compile()
    return lambda: jax.block_until_ready(run(*args)), time.perf_counter() - start


def torch_step(network: torch.nn.Module, images: np.ndarray, labels: np.ndarray) -> Run:
    """Returns the same training step in PyTorch."""
    network = network.train().to(memory_format=torch.channels_last)
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels).long()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()

    return run


def batch(count: int, side: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Returns random images and labels."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, side, side, 3)).astype(np.float32), rng.integers(0, classes, count).astype(np.int32)


def compare(name: str, ways: dict[str, tuple[Run, float]], rounds: int) -> dict[str, Any]:
    """Returns the median seconds of both ways, their ratio (first over second), and the seconds of compilation."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, (run, _) in ways.items():
            time.sleep(SPINNING_SECONDS)
            run()  # not timed: fills the caches
            start, count = time.perf_counter(), 0
            while count == 0 or time.perf_counter() - start < LEAST_SECONDS:
                run()
                count += 1
            if number:  # the first round is a warmup
                seconds[way].append((time.perf_counter() - start) / count)
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    first, second = medians.values()
    found = {"ratio": first / second, "seconds": medians, "compile_seconds": {w: c for w, (_, c) in ways.items() if c}}
    times = ", ".join(f"{way} {1000 * value:.1f} ms" for way, value in medians.items())
    compiling = ", ".join(f"{value:.1f}" for value in found["compile_seconds"].values())
    print(f"{name:56}{found['ratio']:6.2f}   {times}; compilation {compiling} s", flush=True)
    return found


def measure(weights: Path | None, rounds: int) -> dict[str, Any]:
    """Returns all results by name."""
    results: dict[str, Any] = {}
    for width, count in ((16, 64), (64, 32)):
        images, labels = batch(count, 32)
        network = ResNet18(width)
        ours = compiled(make_step(network), init(network, jnp.asarray(images)), images, labels)
        name = f"step: ResNet-18 width {width}, {count} x 32 px"
        ways = {"jaxft": ours, "torch": (torch_step(torch_resnet18(width), images, labels), 0.0)}
        results[name] = compare(name, ways, rounds)

    images, labels = batch(8, 224)
    network = create_model("resnet18", 10)
    name = "step: resnet18, 8 x 224 px"
    ours = compiled(make_step(network), init(network, jnp.asarray(images)), images, labels)
    results[name] = compare(
        name, {"jaxft": ours, "torch": (torch_step(torch_resnet18(64, imagenet=True), images, labels), 0.0)}, rounds
    )

    results |= measure_lanes(rounds)
    for count, side, channels, kernel in DEPTHWISE:
        name = f"depthwise and gradients: {count}x{side}x{side}x{channels} k{kernel}"
        results[name] = compare(name, depthwise_ways(count, side, channels, kernel), rounds)
    if weights is not None:
        results |= measure_lite0(weights, rounds)
    return results


def measure_lanes(rounds: int) -> dict[str, Any]:
    """Compares a step of several networks under `vmap` with the same networks one after another."""
    images, labels = batch(64, 32)
    network = ResNet18(16)
    states = [init(network, jnp.asarray(images), seed) for seed in range(LANES)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    step = make_step(network)
    every = [jnp.stack([jnp.asarray(array)] * LANES) for array in (images, labels)]
    side_by_side = compiled(jax.vmap(step), stacked, *every)
    one, seconds = compiled(step, states[0], images, labels)
    name = f"vmap of {LANES} / sequential: ResNet-18 width 16, 64 x 32 px"
    sequential: tuple[Run, float] = (lambda: [one() for _ in states], seconds)
    return {name: compare(name, {"vmap": side_by_side, "sequential": sequential}, rounds)}


def depthwise_ways(count: int, side: int, channels: int, kernel: int) -> dict[str, tuple[Run, float]]:
    """Returns the depthwise convolution with both gradients, in jaxft and in PyTorch."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, side, side, channels)).astype(np.float32)
    k = rng.normal(size=(kernel, kernel, 1, channels)).astype(np.float32)
    numbers = jax.lax.conv_dimension_numbers(x.shape, k.shape, ("NHWC", "HWIO", "NHWC"))

    def ours(x: jax.Array, k: jax.Array) -> Any:
        out, back = jax.vjp(
            lambda x, k: conv_general_dilated(x, k, (1, 1), "SAME", None, None, numbers, channels), x, k
        )
        return out, back(out)

    images = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    weight = torch.from_numpy(k.transpose(3, 2, 0, 1).copy()).to(memory_format=torch.channels_last).requires_grad_()

    def theirs() -> Any:
        out = F.conv2d(images, weight, padding=kernel // 2, groups=channels)
        return torch.autograd.grad(out, (images, weight), out.detach())

    return {"jaxft": compiled(ours, x, k), "torch": (theirs, 0.0)}


def measure_lite0(weights: Path, rounds: int) -> dict[str, Any]:
    """Compares inference and a training step of EfficientNet-Lite0 on eight images of 224 px."""
    images, labels = batch(8, 224, 1000)
    network = create_model("efficientnet_lite0", 1000)
    variables, _ = load(str(weights), network)
    variables = {name: variables[name] for name in ("params", "batch_stats")}
    theirs = plain.load_network(weights, 1000)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)

    class Pixels(torch.nn.Module):
        """EfficientNet-Lite0 on preprocessed images."""

        def __init__(self) -> None:
            super().__init__()
            self.network = theirs

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            net = self.network
            x = F.relu6(net._bn0(net._conv_stem(x)))
            for block in net._blocks:
                x = block(x)
            return net._fc(F.relu6(net._bn1(net._conv_head(x))).mean((2, 3)))

    def infer() -> None:
        with torch.inference_mode():
            twin(x)

    twin = Pixels().eval()
    found = {}
    ours = compiled(lambda variables, images: network.apply(variables, images), variables, jnp.asarray(images))
    name = "inference: EfficientNet-Lite0, 8 x 224 px"
    found[name] = compare(name, {"jaxft": ours, "torch": (infer, 0.0)}, rounds)
    state = variables, optax.sgd(1e-3, momentum=0.9).init(variables["params"])
    ours = compiled(make_step(network), state, jnp.asarray(images), jnp.asarray(labels))
    name = "step: EfficientNet-Lite0, 8 x 224 px"
    found[name] = compare(name, {"jaxft": ours, "torch": (torch_step(twin, images, labels), 0.0)}, rounds)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one line per comparison, and writes the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="weights of EfficientNet-Lite0; without them, it is skipped")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    if argv is None:
        restart_with(fast_environment())
    load_before = os.getloadavg()[0]
    results = measure(args.weights, args.rounds)
    record = {
        "results": results,
        "load_before": load_before,
        "rounds": args.rounds,
        **environment(),
        "convolution": described(*implementation()),
        "variables": {name: os.environ.get(name, "") for name in ("GLIBC_TUNABLES", "GOMP_SPINCOUNT")},
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
