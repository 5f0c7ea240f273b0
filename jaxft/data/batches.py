"""Which images a step trains on: index arrays, made outside the compiled program."""

from dataclasses import dataclass

import numpy as np

from jaxft.core.digests import sha256_of


@dataclass(frozen=True)
class StepRange:
    """Consecutive steps of a stream of batches.

    Attributes:
      first_step: the step of the stream that they begin at.
      num_steps: how many they are.
      batch_size: images in a batch.
      views: number of versions of each image; every epoch has the next one.
      num_images: number of all images, by which the indices of two views of an image differ.
    """

    first_step: int
    num_steps: int
    batch_size: int
    views: int = 1
    num_images: int = 0

    @property
    def images(self) -> range:
        """Returns the places in the stream of the images that the steps see."""
        return range(self.first_step * self.batch_size, (self.first_step + self.num_steps) * self.batch_size)

    def cut(self, stream: np.ndarray, first: int) -> np.ndarray:
        """Returns the batches, [num_steps, batch_size] int32, of a part of the stream that begins at `first`."""
        offset = self.images.start - first
        images = stream[offset : offset + len(self.images)]
        return images.reshape(self.num_steps, self.batch_size).astype(np.int32)


def num_steps(num_images: int, epochs: float, batch_size: int) -> int:
    """Returns the number of full batches in `epochs` epochs over `num_images`."""
    return int(epochs * num_images / batch_size + 1e-9)


def epoch_ends(num_images: int, steps: int, batch_size: int) -> list[int]:
    """Returns the step after which each epoch ends: ascending, none twice, the last being the number of steps."""
    epochs = range(1, steps * batch_size // num_images + 1)
    ends = {num_steps(num_images, epoch, batch_size) for epoch in epochs} | {steps}
    return sorted(end for end in ends if end > 0)


def batch_indices(rows: np.ndarray, seed: int, step_range: StepRange) -> np.ndarray:
    """Returns [num_steps, batch_size] int32: epochs over `rows`, each in an order of its own, cut into full batches.

    Batches run on across the ends of epochs, so every image is seen equally often. With several views, an index is
    view * num_images + row.
    """
    n, images = len(rows), step_range.images
    epochs = range(images.start // n, -(-images.stop // n))
    stream = [
        rows[permutation(f"order:{seed}:{epoch}", n)] + epoch % step_range.views * step_range.num_images
        for epoch in epochs
    ]
    return step_range.cut(np.concatenate(stream), epochs.start * n)


def balanced_indices(rows: np.ndarray, labels: np.ndarray, seed: int, step_range: StepRange) -> np.ndarray:
    """Returns [num_steps, batch_size] int32 as `batch_indices`, but with every class equally often.

    The stream is one of rounds. A round has one image of each class that `labels: [images]` gives `rows`, the classes
    in an order of its own; the images of a class come in epochs over them. So any part of the stream has at most two
    images more of one class than of another, and no image of a class comes k + 1 times before all others came k times.
    """
    classes, of_row = np.unique(labels[rows], return_inverse=True)
    images = step_range.images
    rounds = range(images.start // len(classes), -(-images.stop // len(classes)))
    drawn = np.empty((len(rounds), len(classes)), np.int64)
    for number, label in enumerate(classes):
        class_rows = rows[of_row == number]
        epochs = range(rounds.start // len(class_rows), -(-rounds.stop // len(class_rows)))
        orders = class_rows[permutations(f"order:{seed}:class:{label}", epochs, len(class_rows))]
        orders += np.arange(epochs.start, epochs.stop).reshape(-1, 1) % step_range.views * step_range.num_images
        begin = rounds.start - epochs.start * len(class_rows)
        drawn[:, number] = orders.reshape(-1)[begin : begin + len(rounds)]
    stream = np.take_along_axis(drawn, permutations(f"order:{seed}:classes", rounds, len(classes)), axis=1).reshape(-1)
    return step_range.cut(stream, rounds.start * len(classes))


def permutation(name: str, n: int) -> np.ndarray:
    """Returns the order of 0..n-1 that belongs to `name`.

    It is the order of raw bits of PCG64, whose stream NumPy promises to keep; `Generator.permutation` it does not.
    """
    return permutations(name, range(1), n)[0]


def permutations(name: str, numbers: range, n: int) -> np.ndarray:
    """Returns [numbers, n]: of the stream of orders of 0..n-1 that belongs to `name`, those with these numbers."""
    seed = int.from_bytes(bytes.fromhex(sha256_of(name))[:16], "little")
    bits = np.random.PCG64(seed).advance(numbers.start * n).random_raw(len(numbers) * n)
    return np.argsort(bits.reshape(len(numbers), n), axis=1, kind="stable")


def class_weights(labels: np.ndarray, num_classes: int, weighting: str, beta: float) -> np.ndarray:
    """Returns [num_classes] float32: how much an image of each class weighs in the loss, with mean 1 over `labels`.

    'inverse': by the inverse of the number n of the class's images; 'effective': of their effective number,
    (1 - beta^n) / (1 - beta) (Cui et al. 2019, eq. 2). There the weights sum to the number of classes; with mean 1 over
    the images, a learning rate means the same as without weights. A class without images weighs nothing.
    """
    counts = np.bincount(labels, minlength=num_classes).astype(np.float64)
    number = counts if weighting == "inverse" else (1 - beta**counts) / (1 - beta)
    weights = np.divide(1, number, out=np.zeros(num_classes), where=counts > 0)
    return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)


def padded_batches(rows: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ([steps, batch_size] int32, [steps, batch_size] bool): `rows` in batches, and which are no padding."""
    steps = -(-len(rows) // batch_size)
    padded = np.zeros(steps * batch_size, np.int32)
    padded[: len(rows)] = rows
    mask = np.arange(steps * batch_size) < len(rows)
    return padded.reshape(steps, batch_size), mask.reshape(steps, batch_size)
