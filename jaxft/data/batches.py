"""Which images a step trains on: index arrays, made outside the compiled program."""

import hashlib

import numpy as np


def num_steps(num_images: int, epochs: float, batch_size: int) -> int:
    """Returns the number of full batches in `epochs` passes over `num_images`."""
    return int(epochs * num_images / batch_size + 1e-9)


def epoch_ends(num_images: int, steps: int, batch_size: int) -> list[int]:
    """Returns the step after which each pass ends: ascending, none twice, the last being the number of steps."""
    passes = range(1, steps * batch_size // num_images + 1)
    ends = {num_steps(num_images, epoch, batch_size) for epoch in passes} | {steps}
    return sorted(end for end in ends if end > 0)


def batch_indices(
    rows: np.ndarray, seed: int, first_step: int, steps: int, batch_size: int, views: int = 1, num_images: int = 0
) -> np.ndarray:
    """Returns [steps, batch_size] int32: passes over `rows`, each in an order of its own, cut into full batches.

    Batches run on across the ends of passes, so every image is seen equally often. `first_step` makes a later
    stretch of the same stream. Of several `views`, each pass has the next: view * num_images + row.
    """
    n = len(rows)
    first, last = first_step * batch_size, (first_step + steps) * batch_size
    passes = range(first // n, -(-last // n))
    stream = np.concatenate(
        [rows[permutation(f"order:{seed}:{epoch}", n)] + epoch % views * num_images for epoch in passes]
    )
    offset = first - passes.start * n
    return stream[offset : offset + steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def permutation(name: str, n: int) -> np.ndarray:
    """Returns the order of 0..n-1 that belongs to `name`.

    It is the order of raw bits of PCG64, whose stream NumPy promises to keep; `Generator.permutation` it does not.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")


def padded_batches(rows: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ([steps, batch_size] int32, [steps, batch_size] bool): `rows` in batches, and which are no padding."""
    steps = -(-len(rows) // batch_size)
    padded = np.zeros(steps * batch_size, np.int32)
    padded[: len(rows)] = rows
    mask = np.arange(steps * batch_size) < len(rows)
    return padded.reshape(steps, batch_size), mask.reshape(steps, batch_size)
