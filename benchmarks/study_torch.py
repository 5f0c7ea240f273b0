"""The studies of `study_configs.py` in plain PyTorch: one process with a loop over the trials.

    python benchmarks/study_torch.py --config=benchmarks/study_configs.py:seeds --out out.json

jaxft decodes, splits and orders the images, so both train on the same batches and only the training differs. Frozen
layers run without a gradient, with batch norm in `eval` mode. The best epoch on validation is tested once. The frozen
EfficientNet-Lite0 runs in every epoch, or, with `--cached`, once for all trials.
"""

import argparse
import functools
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import finetune_torch as plain
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from jaxft.config import FROZEN, Trial, load_config
from jaxft.data.batches import StepRange, batch_indices, epoch_ends, num_steps
from jaxft.data.readers.image_set import ImageSet
from jaxft.data.readers.image_sets import load_images
from jaxft.data.sampling.splits import draw_split

MEAN, STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)  # of CIFAR-100, the training data of resnetsmall14
EVAL_BATCH = 256
Look = Callable[[Tensor, bool], Tensor]  # from rows, and whether they are for training, to network inputs


# --- the networks -----------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A residual block: two 3x3 convolutions and a shortcut, with a ReLU at the end of a stage."""

    def __init__(self, inputs: int, features: int, stride: int, relu_after: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != features:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, features, 1, stride, bias=False), nn.BatchNorm2d(features))
        self.relu_after = relu_after

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y)) + self.shortcut(x)
        return F.relu(y, inplace=True) if self.relu_after else y


class ResNetSmall14(nn.Module):
    """resnetsmall14 with the block names of jaxft below the head; the first `frozen` blocks do not train."""

    def __init__(self, num_classes: int):
        super().__init__()
        parts: dict[str, nn.Module] = {
            "stem": nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
        }
        inputs = 64
        for stage, features in enumerate((16, 32, 64), 1):
            parts[f"stage{stage}/block1"] = Block(inputs, features, 1 if stage == 1 else 2, relu_after=False)
            parts[f"stage{stage}/block2"] = Block(features, features, 1, relu_after=True)
            inputs = features
        self.body = nn.ModuleDict(parts)
        self.head = nn.Linear(256, num_classes)
        self.frozen = 0

    def freeze(self, frozen: int) -> None:
        """Freezes the first `frozen` blocks, and unfreezes all others."""
        self.frozen = frozen
        for number, part in enumerate(self.body.values()):
            part.requires_grad_(number >= frozen)

    def train(self, mode: bool = True) -> "ResNetSmall14":
        """Sets the mode of the blocks that are not frozen."""
        super().train(mode)
        for part in list(self.body.values())[: self.frozen]:
            part.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.body.values())
        with torch.no_grad():
            for part in parts[: self.frozen]:
                x = part(x)
        for part in parts[self.frozen :]:
            x = part(x)
        return self.head(F.avg_pool2d(x, 4).flatten(1))


def load_body(weights: str) -> dict[str, Tensor]:
    """Returns the published backbone weights with the names of `ResNetSmall14`."""
    renamed = {}
    for name, tensor in load_file(weights).items():
        name = re.sub(r"^conv1\.", "body.stem.0.", re.sub(r"^bn1\.", "body.stem.1.", name))
        name = re.sub(r"^layer(\d)\.(\d)\.", lambda at: f"body.stage{at[1]}/block{int(at[2]) + 1}.", name)
        renamed[name] = tensor
    return {name: tensor for name, tensor in renamed.items() if name.startswith("body.")}


def num_frozen(trial: Trial, parts: Iterable[str]) -> int:
    """Returns the number of blocks that the rules of the trial freeze; in these studies, the first ones."""
    patterns = [pattern for pattern, rate in trial.training.layers.rates if rate == FROZEN]
    return sum(any(re.fullmatch(pattern, f"{part}/") for pattern in patterns) for part in parts)


# --- a trial ----------------------------------------------------------------------------------------------------


def make_optimizer(trial: Trial, body: Sequence[nn.Parameter], head: Sequence[nn.Parameter]) -> torch.optim.SGD:
    """Returns SGD with momentum, learning rates of backbone and head, and weight decay of kernels only."""
    training, groups = trial.training, []
    for params, rate in ((body, training.layers.backbone_learning_rate), (head, training.optimizer.learning_rate)):
        for kernels in (True, False):
            chosen = [p for p in params if (p.ndim > 1) == kernels]
            if chosen:
                groups.append({"params": chosen, "lr": rate, "weight_decay": training.optimizer.weight_decay * kernels})
    return torch.optim.SGD(groups, momentum=training.optimizer.momentum, fused=True)


def run_trial(
    trial: Trial, images: ImageSet, labels: Tensor, network: nn.Module, optimizer: torch.optim.SGD, look: Look,
    forward: Callable[[Tensor], Tensor],
) -> float:  # fmt: skip
    """Returns the test accuracy of the epoch with the best validation accuracy.

    `forward` is the network as called in training.
    """
    split = draw_split(images, trial.stream_seed("split"), trial.target, "target")
    training, num_train = trial.training, len(split.train)
    steps = num_steps(num_train, training.schedule.epochs, training.batches.size)
    order = batch_indices(split.train, trial.stream_seed("order"), StepRange(0, steps, training.batches.size))
    ends = set(epoch_ends(num_train, steps, training.batches.size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, kept = (-1.0, 0.0), {}
    network.train()
    for step, rows in enumerate(torch.from_numpy(order).long(), 1):
        optimizer.zero_grad()
        F.cross_entropy(forward(look(rows, True)), labels[rows]).backward()
        optimizer.step()
        schedule.step()
        if step in ends:
            score = evaluate(network, look, labels, split.val)
            if score > best:
                best, kept = score, {name: value.clone() for name, value in network.state_dict().items()}
            network.train()
    network.load_state_dict(kept)
    return evaluate(network, look, labels, split.test)[0]


@torch.no_grad()
def evaluate(network: nn.Module, look: Look, labels: Tensor, rows: np.ndarray) -> tuple[float, float]:
    """Returns (accuracy, minus mean loss); larger is better, compared in this order."""
    network.eval()
    at = torch.from_numpy(rows).long()
    logits = torch.cat([network(look(batch, False)) for batch in at.split(EVAL_BATCH)])
    accuracy = (logits.argmax(1) == labels[at]).double().mean().item()
    return accuracy, -F.cross_entropy(logits, labels[at]).item()


# --- the studies ------------------------------------------------------------------------------------------------


def make_look(images: ImageSet, trial: Trial) -> Look:
    """Returns a function from rows to normalized channels-last images, randomly shifted and flipped in training."""
    pixels, side = torch.from_numpy(np.array(images.images)), images.images.shape[1]
    padding = trial.training.augmentation.crop.padding_px
    padded = F.pad(pixels, (0, 0, padding, padding, padding, padding))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    scale, shift, at = 1 / (255 * std), mean / std, torch.arange(side)

    def look(rows: Tensor, training: bool) -> Tensor:
        if not training or not (padding or trial.training.augmentation.flip.enabled):
            x = pixels[rows]
        else:
            offsets = torch.randint(0, 2 * padding + 1, (2, len(rows), 1))
            mirrored = (torch.rand(len(rows), 1) < 0.5) & trial.training.augmentation.flip.enabled
            height, width = offsets[0] + at, offsets[1] + torch.where(mirrored, at.flip(0), at)
            x = padded[rows[:, None, None], height[:, :, None], width[:, None, :]]
        return x.permute(0, 3, 1, 2).float() * scale - shift

    return look


def run_whole(trials: Sequence[Trial], images: ImageSet, compiled: bool) -> tuple[list[float], float]:
    """Returns the test accuracies and the seconds of trials of resnetsmall14, which share one weight file."""
    published, labels = load_body(trials[0].source.weights), torch.from_numpy(images.labels).long()
    look = make_look(images, trials[0])
    network = ResNetSmall14(len(images.class_names)).to(memory_format=torch.channels_last)
    forward = torch.compile(network) if compiled else network
    accuracies, start = [], time.perf_counter()
    for trial in trials:
        torch.manual_seed(trial.seed)
        network.load_state_dict(published, strict=False)
        network.head.reset_parameters()
        network.freeze(num_frozen(trial, network.body))
        body = [p for p in network.body.parameters() if p.requires_grad]
        optimizer = make_optimizer(trial, body, list(network.head.parameters()))
        accuracies.append(run_trial(trial, images, labels, network, optimizer, look, forward))
    return accuracies, time.perf_counter() - start


def run_heads(trials: Sequence[Trial], images: ImageSet, cached: bool) -> tuple[list[float], float]:
    """Returns the test accuracies and the seconds of trials of a linear head on the frozen EfficientNet-Lite0.

    The seconds do not include features that are computed once for all trials.
    """
    labels = torch.from_numpy(images.labels).long()
    trunk = plain.load_network(Path(trials[0].source.weights), len(images.class_names))

    def pooled(pixels: np.ndarray) -> Tensor:
        return plain.apply_in_batches(lambda x: trunk.pooled(trunk.bottom(x, 0), 0), plain.to_tensor(pixels))

    features = pooled(images.images) if cached else None
    accuracies, start = [], time.perf_counter()
    for trial in trials:
        torch.manual_seed(trial.seed)
        head = nn.Linear(trunk._fc.in_features, len(images.class_names))
        optimizer = make_optimizer(trial, [], list(head.parameters()))

        def look(rows: Tensor, training: bool) -> Tensor:
            return pooled(images.images[rows.numpy()]) if features is None else features[rows]

        accuracies.append(run_trial(trial, images, labels, head, optimizer, look, head))
    return accuracies, time.perf_counter() - start


def study(config: str, overrides: Sequence[str], part: int | None, cached: bool, compiled: bool) -> dict[str, Any]:
    """Returns the test accuracies and the seconds of the trials of a study, or of the first `part` trials."""
    trials = load_config(config, overrides).study.trials()
    chosen, size_px = trials[:part], trials[0].target.size_px or plain.SIZE_PX
    images = load_images(trials[0].target, size_px)
    run = functools.partial(run_whole, compiled=compiled)
    if trials[0].training.layers.backbone_learning_rate == FROZEN:
        run = functools.partial(run_heads, cached=cached)
    accuracies, seconds = run(chosen, images)
    return {"trials": len(trials), "run": len(chosen), "accuracies": accuracies, "seconds_of_trials": seconds}


def main() -> None:
    """Runs the study and writes its results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, metavar="FILE.py:ARG", help="a study of study_configs.py")
    parser.add_argument("--override", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--part", type=int, help="number of trials to run (default: all)")
    parser.add_argument("--cached", action="store_true", help="compute frozen features once for all trials")
    parser.add_argument("--compile", action="store_true", help="train with torch.compile")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    result = study(args.config, args.override, args.part, args.cached, args.compile)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
