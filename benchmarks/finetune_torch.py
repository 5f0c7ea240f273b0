"""The recipe of `jaxft finetune` in plain PyTorch for EfficientNet-Lite0, as a baseline.

    python benchmarks/finetune_torch.py --weights efficientnet_lite0.imagenet.safetensors --data pictures --out out.json

jaxft decodes and splits the images, so both train on the same rows and only the training differs. `--check` compares
the logits of the network with stored ones, without training.
"""

import argparse
import copy
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from jaxft.analysis.statistics import mean_interval
from jaxft.config import Images
from jaxft.data.readers.image_set import ImageSet
from jaxft.data.readers.image_sets import load_images
from jaxft.data.readers.pictures import decode
from jaxft.data.sampling.splits import Split, draw_split

SIZE_PX = 224
# Stages of EfficientNet-Lite0: blocks, kernel, stride of the first block, expansion, features.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip
FIRST_TRAINED_BLOCK = 11  # the last block that reduces the resolution, from 14 x 14 to 7 x 7 pixels

BATCH = 32
FORWARD_BATCH = 4  # fits into the processor caches; 64 images take twice as long per image
WEIGHT_DECAY = 1e-4
DECAYS = (0.003, 0.01, 0.03)  # L2 penalties of the head-only candidates
PROBE_DECAY = 0.01  # L2 penalty of the initial head
ITERATIONS = 60  # L-BFGS iterations
RATES = (0.0003, 0.001)  # learning rates of head and last stage
STEPS, MAX_EPOCHS = 100, 40  # approximate number of fine-tuning steps; maximum number of epochs
LAYER_DECAY = 0.9
MIN_AREA = 0.5
JUDGED, MOST_FOLDS = 100, 5  # minimum number of validation images over all folds; maximum number of folds


# --- the network ------------------------------------------------------------------------------------------------


class SameConv(nn.Conv2d):
    """A convolution with the "SAME" padding of TensorFlow, where an odd pixel is added at the bottom and right."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, size = self.kernel_size[0], self.stride[0], x.shape[-1]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        if total % 2:
            x, total = F.pad(x, (total // 2, total - total // 2) * 2), 0
        return F.conv2d(x, self.weight, None, self.stride, total // 2, 1, self.groups)


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> SameConv:
    """Returns a convolution without bias."""
    return SameConv(inputs, outputs, kernel, stride, groups=groups, bias=False)


def norm(features: int) -> nn.BatchNorm2d:
    """Returns batch norm with the epsilon of the published weights."""
    return nn.BatchNorm2d(features, eps=1e-3)


class Block(nn.Module):
    """An inverted residual block: a wide depthwise convolution between two 1x1 convolutions, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        self.expands, self.shortcut = expansion != 1, inputs == outputs and stride == 1
        if self.expands:
            self._expand_conv, self._bn0 = conv(inputs, wide), norm(wide)
        self._depthwise_conv, self._bn1 = conv(wide, wide, kernel, stride, wide), norm(wide)
        self._project_conv, self._bn2 = conv(wide, outputs), norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.shortcut else y


class Lite0(nn.Module):
    """EfficientNet-Lite0 with the parameter names of the published file."""

    def __init__(self, num_classes: int):
        super().__init__()
        self._conv_stem, self._bn0 = conv(3, 32, 3, 2), norm(32)
        blocks, inputs = [], 32
        for number, kernel, stride, expansion, features in STAGES:
            for i in range(number):
                blocks.append(Block(inputs, features, kernel, stride if i == 0 else 1, expansion))
                inputs = features
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = conv(inputs, 1280), norm(1280)
        self._fc = nn.Linear(1280, num_classes)

    def bottom(self, pixels: Tensor, stop: int) -> Tensor:
        """Returns the input of block `stop`, from `pixels: [n, 3, height, width] uint8`."""
        x = (pixels.float() - 127) / 128
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks[:stop]:
            x = block(x)
        return x

    def pooled(self, x: Tensor, start: int) -> Tensor:
        """Returns the 1,280 pooled features from the input of block `start`."""
        for block in self._blocks[start:]:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))

    def forward(self, x: Tensor, start: int) -> Tensor:
        return self._fc(self.pooled(x, start))


def load_network(weights: Path, num_classes: int) -> Lite0:
    """Returns the network with the weights of the file; for other classes, the head is zero."""
    tensors = load_file(weights)
    network = Lite0(num_classes)
    if len(tensors["_fc.bias"]) != num_classes:
        tensors["_fc.weight"], tensors["_fc.bias"] = torch.zeros(num_classes, 1280), torch.zeros(num_classes)
    network.load_state_dict(tensors, strict=True)
    return network.eval().to(memory_format=torch.channels_last)  # `eval` freezes the batch-norm statistics


# --- the pictures -----------------------------------------------------------------------------------------------


def split_images(images: ImageSet, fold: int = 0) -> Split:
    """Returns the split of `jaxft finetune`; a fifth of each class is for validation."""
    return draw_split(images, 0, Images(val_fraction=0.2, test_fraction=0.2), "data", fold)


def random_view(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a random resized crop of an image, flipped with probability 1/2."""
    height, width = pixels.shape[:2]
    area, ratio = rng.uniform(MIN_AREA, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    box_width, box_height = min(width, width * (area * ratio) ** 0.5), min(height, height * (area / ratio) ** 0.5)
    left, top = rng.uniform(0, width - box_width), rng.uniform(0, height - box_height)
    box = (left, top, left + box_width, top + box_height)
    view = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, box))
    return view[:, ::-1] if rng.random() < 0.5 else view


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Returns `pixels: [n, height, width, 3]` as channels-last [n, 3, height, width]."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)


@torch.no_grad()
def apply_in_batches(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Returns the function of all rows, computed in batches without gradients."""
    return torch.cat([function(batch) for batch in x.split(FORWARD_BATCH)])


@dataclass
class Inputs:
    """Inputs of the trained blocks, and pooled features, for every view and row: [views, rows, ...]."""

    entering: list[Tensor]
    pooled: list[Tensor]

    def rows(self, rows: Tensor) -> "Inputs":
        """Returns a subset of the rows."""
        return Inputs([view[rows] for view in self.entering], [view[rows] for view in self.pooled])


def make_inputs(network: Lite0, pixels: np.ndarray, views: int, seed: int = 0) -> Inputs:
    """Returns the inputs for the original images and `views` - 1 random views of each."""
    inputs = Inputs([], [])
    for view in range(views):
        rng = np.random.default_rng([seed, view])
        seen = np.stack([random_view(image, rng) for image in pixels]) if view else pixels
        entering = apply_in_batches(lambda x: network.bottom(x, FIRST_TRAINED_BLOCK), to_tensor(seen))
        inputs.entering.append(entering)
        inputs.pooled.append(apply_in_batches(lambda x: network.pooled(x, FIRST_TRAINED_BLOCK), entering))
    return inputs


# --- training ---------------------------------------------------------------------------------------------------


def parameter_groups(network: Lite0, rate: float) -> list[dict[str, Any]]:
    """Returns the trained parameters with the learning rate of each layer; only kernels have weight decay."""
    layers = [network._fc, nn.ModuleList([network._conv_head, network._bn1])]
    layers += reversed(network._blocks[FIRST_TRAINED_BLOCK:])
    groups = []
    for depth, layer in enumerate(layers):
        for kernels in (True, False):
            params = [p for p in layer.parameters() if (p.ndim > 1) == kernels]
            decay = WEIGHT_DECAY if kernels else 0.0
            groups.append({"params": params, "lr": rate * LAYER_DECAY**depth, "weight_decay": decay})
    return groups


def batches(views: list[Tensor], labels: Tensor, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the batches of every epoch; each epoch uses another view."""
    for epoch in range(epochs):
        for rows in torch.randperm(len(labels)).split(BATCH):
            yield views[epoch % len(views)][rows], labels[rows]


def train(
    model: Callable[[Tensor], Tensor], groups: list[dict[str, Any]], views: list[Tensor], labels: Tensor, epochs: int
) -> None:
    """Trains the parameters of the groups with AdamW and a cosine schedule over all steps."""
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(labels) // BATCH))
    for x, y in batches(views, labels, epochs):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()


def fit_head(head: nn.Linear, pooled: list[Tensor], labels: Tensor, decay: float) -> None:
    """Fits a logistic regression to all views at once."""
    x, y = torch.cat(pooled), labels.repeat(len(pooled))
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(head(x), y) + decay / 2 * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)


@dataclass(frozen=True)
class Candidate:
    """A candidate: the head with a weight decay, and then, if `rate` is not 0, the last stage at this rate."""

    decay: float
    rate: float = 0.0

    def __str__(self) -> str:
        return f"top at {self.rate:g}" if self.rate else f"head with decay {self.decay:g}"


CANDIDATES = (*(Candidate(PROBE_DECAY, rate) for rate in RATES), *(Candidate(decay) for decay in DECAYS))


@dataclass(frozen=True)
class Lengths:
    """Lengths of training: fewer images get more epochs and more views."""

    epochs: int
    views: int


def make_lengths(num_train: int) -> Lengths:
    """Returns the lengths of training for candidates on `num_train` images."""
    epochs = min(max(round(STEPS * min(BATCH, num_train) / num_train), 6), MAX_EPOCHS)
    return Lengths(epochs, min(max(round(4000 / num_train), 2), 8))


def fit(network: Lite0, inputs: Inputs, labels: Tensor, candidate: Candidate, lengths: Lengths, seed: int) -> Lite0:
    """Returns a copy of `network` with the head and last stage of the candidate trained on `inputs`."""
    torch.manual_seed(seed)
    network = copy.deepcopy(network)
    fit_head(network._fc, inputs.pooled, labels, candidate.decay)
    if candidate.rate:
        groups = parameter_groups(network, candidate.rate)
        train(lambda x: network(x, FIRST_TRAINED_BLOCK), groups, inputs.entering, labels, lengths.epochs)
    return network


def evaluate(network: Lite0, inputs: Inputs, labels: Tensor) -> tuple[float, float]:
    """Returns (accuracy, minus mean loss) on original images; larger is better, compared in this order."""
    logits = apply_in_batches(lambda x: network(x, FIRST_TRAINED_BLOCK), inputs.entering[0])
    return (logits.argmax(1) == labels).double().mean().item(), -F.cross_entropy(logits, labels).item()


def finetune(weights: Path, data: Path, seeds: int) -> dict[str, Any]:
    """Returns the results of the recipe: accuracies, the selected candidate, seconds."""
    start = time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - start:7.1f} s  {text}", flush=True)

    images = load_images(Images(data=str(data)), SIZE_PX)
    split = split_images(images)
    folds = [split_images(images, fold) for fold in range(min(-(-JUDGED // len(split.val)), MOST_FOLDS))]
    learn = np.sort(np.concatenate([split.train, split.val]))
    labels, test_labels = (torch.from_numpy(images.labels[rows]).long() for rows in (learn, split.test))
    lengths = make_lengths(len(split.train))
    sizes = f"{len(split.train)} images to train on, {len(split.val)} to select on, {len(split.test)} to test on"
    say(f"{sizes}; {len(folds)} folds; {lengths}")

    network = load_network(weights, len(images.class_names))
    inputs = make_inputs(network, images.images[learn], lengths.views)
    say("computed the frozen activations of every view")
    scores: dict[Candidate, tuple[float, float]] = {}
    for candidate in CANDIDATES:
        found = []
        for fold in folds:
            to_fit, to_select = (torch.from_numpy(np.searchsorted(learn, rows)) for rows in (fold.train, fold.val))
            tried = fit(network, inputs.rows(to_fit), labels[to_fit], candidate, lengths, 0)
            found.append(evaluate(tried, inputs.rows(to_select), labels[to_select]))
        scores[candidate] = float(np.mean([f[0] for f in found])), float(np.mean([f[1] for f in found]))
        say(f"{candidate}: {scores[candidate][0]:.4f} on the validation parts")
    chosen = max(scores, key=scores.__getitem__)  # the head is deterministic and varies only with its views
    test_inputs = make_inputs(network, images.images[split.test], views=1)
    accuracies = []
    for seed in range(seeds):
        if seed:
            inputs = make_inputs(network, images.images[learn], lengths.views, seed)
        final = fit(network, inputs, labels, chosen, lengths, seed)
        accuracies.append(evaluate(final, test_inputs, test_labels)[0])
        say(f"{chosen}, seed {seed}: {accuracies[-1]:.4f} on the test part")
    return {
        "data": {"train": len(split.train), "val": len(split.val), "test": len(split.test)},
        "selection": {str(candidate): score[0] for candidate, score in scores.items()},
        "selected": str(chosen),
        "test": summary(accuracies),
        "seconds": {"total": time.perf_counter() - start},
    }


def summary(accuracies: list[float]) -> dict[str, Any]:
    """Returns the accuracies of the seeds, their mean, and the half width of its 95% interval."""
    mean, half_width, num_seeds = mean_interval(accuracies)
    return {"accuracy": accuracies, "mean": mean, "half_width": half_width if num_seeds > 1 else None}


def check(weights: Path, pictures: Path, expected: Path) -> float:
    """Returns max|a - b| / max|b| between logits and stored logits for the first 16 images of a zip file."""
    with zipfile.ZipFile(pictures) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[:16]
        cut = slice(16, 240)
        pixels = np.stack([decode(archive.read(name), 256)[cut, cut] for name in names])
    network = load_network(weights, 1000)
    logits = apply_in_batches(lambda x: network(network.bottom(x, 11), 11), to_tensor(pixels))
    stored = torch.from_numpy(np.load(expected)["efficientnet_lite0.imagenet"])
    return ((logits - stored).abs().max() / stored.abs().max()).item()


def main() -> None:
    """Runs the recipe and writes its results as JSON, or checks the network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", type=Path, nargs=2, metavar=("PICTURES.zip", "LOGITS.npz"))
    args = parser.parse_args()
    if args.check:
        print(f"largest relative difference from the stored logits: {check(args.weights, *args.check):.1e}")
        return
    result = finetune(args.weights, args.data, args.seeds)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
