"""Batches of image rows and class weights, as arrays that the host computes for the compiled program."""

from dataclasses import dataclass

import numpy as np

from jaxft.core.digests import sha256_of


@dataclass(frozen=True)
class StepRange:
    """A range of consecutive training steps.

    Attributes:
      first_step: number of the first step.
      num_steps: number of steps.
      batch_size: images per batch.
      views: number of fixed views of each image; consecutive epochs cycle through them.
      num_images: number of images in the image set, the index offset between consecutive views of an image.
    """

    first_step: int
    num_steps: int
    batch_size: int
    views: int = 1
    num_images: int = 0

    @property
    def positions(self) -> range:
        """Returns the positions of the images of these steps in the stream of all batches."""
        return range(self.first_step * self.batch_size, (self.first_step + self.num_steps) * self.batch_size)

    def cut(self, stream: np.ndarray, first: int) -> np.ndarray:
        """Returns batches [num_steps, batch_size] int32, cut from `stream: [n]`, which starts at position `first`."""
        offset = self.positions.start - first
        indices = stream[offset : offset + len(self.positions)]
        return indices.reshape(self.num_steps, self.batch_size).astype(np.int32)


def num_steps(num_images: int, epochs: float, batch_size: int) -> int:
    """Returns the number of full batches in `epochs` epochs of `num_images` images."""
    return int(epochs * num_images / batch_size + 1e-9)


def epoch_ends(num_images: int, steps: int, batch_size: int) -> list[int]:
    """Returns the number of completed steps at the end of each epoch, ascending and distinct; the last is `steps`."""
    epochs = range(1, steps * batch_size // num_images + 1)
    ends = {num_steps(num_images, epoch, batch_size) for epoch in epochs} | {steps}
    return sorted(end for end in ends if end > 0)


def batch_indices(rows: np.ndarray, seed: int, step_range: StepRange) -> np.ndarray:
    """Returns the image indices of each batch, [num_steps, batch_size] int32.

    Each epoch visits `rows: [n]` in a new random order. Epochs are concatenated before they are cut into full batches,
    so every image is seen equally often. With several views, an index is view * num_images + row.
    """
    n, positions = len(rows), step_range.positions
    epochs = range(positions.start // n, -(-positions.stop // n))
    stream = [
        rows[permutation(f"order:{seed}:{epoch}", n)] + epoch % step_range.views * step_range.num_images
        for epoch in epochs
    ]
    return step_range.cut(np.concatenate(stream), epochs.start * n)


def balanced_indices(rows: np.ndarray, labels: np.ndarray, seed: int, step_range: StepRange) -> np.ndarray:
    """Returns the image indices of class-balanced batches, [num_steps, batch_size] int32.

    The stream of images consists of rounds. A round has one image of each class, with the classes in a new random
    order. Each class visits its images in epochs. So in any section of the stream the class counts differ by at most
    two, and an image appears k + 1 times only after every other image of its class has appeared k times.

    Args:
      rows: [n], rows of the training images.
      labels: [images], labels of all images of the set.
      seed: seed of the random orders.
      step_range: the steps, and the number of views as in `batch_indices`.
    """
    classes, class_of_row = np.unique(labels[rows], return_inverse=True)
    positions = step_range.positions
    rounds = range(positions.start // len(classes), -(-positions.stop // len(classes)))
    drawn = np.empty((len(rounds), len(classes)), np.int64)
    for number, label in enumerate(classes):
        class_rows = rows[class_of_row == number]
        epochs = range(rounds.start // len(class_rows), -(-rounds.stop // len(class_rows)))
        orders = class_rows[permutations(f"order:{seed}:class:{label}", epochs, len(class_rows))]
        orders += np.arange(epochs.start, epochs.stop).reshape(-1, 1) % step_range.views * step_range.num_images
        begin = rounds.start - epochs.start * len(class_rows)
        drawn[:, number] = orders.reshape(-1)[begin : begin + len(rounds)]
    stream = np.take_along_axis(drawn, permutations(f"order:{seed}:classes", rounds, len(classes)), axis=1).reshape(-1)
    return step_range.cut(stream, rounds.start * len(classes))


def permutation(name: str, n: int) -> np.ndarray:
    """Returns a pseudorandom permutation of 0..n-1, seeded by `name`: [n].

    It sorts raw bits of PCG64, because NumPy guarantees the stream of this bit generator, but not that of
    `Generator.permutation`.
    """
    return permutations(name, range(1), n)[0]


def permutations(name: str, numbers: range, n: int) -> np.ndarray:
    """Returns the permutations of 0..n-1 with these numbers in the stream that is seeded by `name`: [numbers, n]."""
    seed = int.from_bytes(bytes.fromhex(sha256_of(name))[:16], "little")
    bits = np.random.PCG64(seed).advance(numbers.start * n).random_raw(len(numbers) * n)
    return np.argsort(bits.reshape(len(numbers), n), axis=1, kind="stable")


def class_weights(labels: np.ndarray, num_classes: int, weighting: str, beta: float) -> np.ndarray:
    """Returns the loss weight of each class, [num_classes] float32, with mean 1 over the images.

    Args:
      labels: [n] integers, labels of the training images.
      num_classes: number of classes. A class without images has weight 0.
      weighting: 'inverse' weights by 1 / n, with n the number of images of the class. 'effective' weights by the
        inverse of the effective number of images, (1 - beta^n) / (1 - beta).
      beta: in [0, 1), used by 'effective' only.

    Reference: Cui et al. 2019, "Class-balanced loss based on effective number of samples", equation 2. Their weights
    sum to the number of classes. Ours have mean 1 over the images, so a learning rate has the same meaning as without
    weights.
    """
    counts = np.bincount(labels, minlength=num_classes).astype(np.float64)
    effective = counts if weighting == "inverse" else (1 - beta**counts) / (1 - beta)
    weights = np.divide(1, effective, out=np.zeros(num_classes), where=counts > 0)
    return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)


def padded_batches(rows: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `rows: [n]` as batches [steps, batch_size] int32, and a mask [steps, batch_size], false for padding."""
    steps = -(-len(rows) // batch_size)
    padded = np.zeros(steps * batch_size, np.int32)
    padded[: len(rows)] = rows
    mask = np.arange(steps * batch_size) < len(rows)
    return padded.reshape(steps, batch_size), mask.reshape(steps, batch_size)
