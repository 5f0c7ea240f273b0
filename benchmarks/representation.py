"""Measures the speed of linear CKA between all pairs of layers of two ResNet-18, beside torch_cka.

    pip install torch-cka torchvision
    python benchmarks/representation.py

Both compute the unbiased minibatch estimator for the outputs of all layers of each network (59 modules of Flax, 49 of
PyTorch: convolutions, batch norms, blocks, the head), on 1,000 images in batches of 32. torch_cka 0.21 computes the
Gram matrices of the second network again for each layer of the first. The images have 64 pixels, so that torch_cka
takes minutes, not hours. The networks have random weights, and the values are not compared here
(`tests/analysis/test_similarity_matrices.py` compares them with the definition).
"""

import argparse
import json
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from finetune import environment

from jaxft.analysis.similarity_matrices import stream_similarity
from jaxft.core.paths import flatten
from jaxft.models import create_model

OUT = Path(__file__).resolve().parent / "results" / "representation.json"
BATCH_SIZE = 32


def layers_of(model: Any, variables: Any) -> Any:
    """Returns a compiled function of images that returns the outputs of all layers of a Flax module by name."""

    @jax.jit
    def outputs(images: jax.Array) -> list[jax.Array]:
        _, state = model.apply(variables, images, capture_intermediates=True, mutable=["intermediates"])
        return [x for name, x in flatten(state["intermediates"]).items() if name != "__call__/0"]

    return lambda images: dict(enumerate(outputs(images)))


def by_jaxft(images: np.ndarray) -> tuple[float, float, int]:
    """Returns (seconds of the comparison, seconds of the forward passes alone, number of layers)."""
    model = create_model("resnet18", 1000)
    networks = [
        layers_of(model, model.init(jax.random.key(seed), jnp.zeros((1, 64, 64, 3), jnp.float32))) for seed in range(2)
    ]

    def batches() -> Iterator[Any]:
        for i in range(0, len(images), BATCH_SIZE):
            yield tuple(network(images[i : i + BATCH_SIZE]) for network in networks)

    stream_similarity(list(batches())[-2:])  # compiles for both sizes of batches
    start = time.perf_counter()
    similarity = stream_similarity(batches())
    middle = time.perf_counter()
    for pair in batches():
        jax.block_until_ready(pair)
    return middle - start, time.perf_counter() - middle, len(similarity.self_x)


def by_torch_cka(images: np.ndarray) -> tuple[float, float, int]:
    """Returns the same with torch_cka."""
    import torch
    from torch_cka import CKA
    from torchvision.models import resnet18

    torch.manual_seed(0)
    networks = [resnet18().eval(), resnet18().eval()]
    kinds = (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.Linear)
    names = [
        name
        for name, module in networks[0].named_modules()
        if isinstance(module, kinds) or type(module).__name__ == "BasicBlock"
    ]
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    loader = torch.utils.data.DataLoader(dataset, BATCH_SIZE)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        for (x,) in loader:
            for network in networks:
                network(x)
        middle = time.perf_counter()
        comparison = CKA(*networks, "a", "b", model1_layers=names, model2_layers=names)
        comparison.compare(loader, loader)
    return time.perf_counter() - middle, middle - start, len(names)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the seconds and their ratio, and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    load_before = os.getloadavg()[0]
    images = np.random.default_rng(0).normal(size=(args.images, 64, 64, 3)).astype(np.float32)
    ways = {"jaxft": by_jaxft, "torch_cka": by_torch_cka}
    rounds: dict[str, list[tuple[float, float, int]]] = {name: [] for name in ways}
    for number in range(args.rounds):
        for name, way in ways.items():
            rounds[name].append(way(images))
            seconds, forward, layers = rounds[name][-1]
            print(
                f"round {number}: {name:10} {seconds:.1f} s ({forward:.1f} s forward alone), {layers} layers",
                flush=True,
            )
    medians = {name: np.median(np.array(values)[:, :2], axis=0).tolist() for name, values in rounds.items()}
    ratio = medians["torch_cka"][0] / medians["jaxft"][0]
    print(f"torch_cka / jaxft: {ratio:.1f}")
    results = {
        name: {"seconds": seconds, "forward_seconds": forward, "layers": rounds[name][0][2]}
        for name, (seconds, forward) in medians.items()
    }
    found = {"results": results, "torch_cka_over_jaxft": ratio, "images": args.images, "rounds": args.rounds}
    args.out.write_text(json.dumps(found | {"load_before": load_before, **environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
