"""Weights and images that are drawn with NumPy alone, to the same bits as the torch reference draws them.

The recipe. The generator of a tensor is `numpy.random.default_rng(seed)`. The seed is the first eight bytes of the
sha256 of the tensor's torch name, read as a little-endian integer. It draws the tensor in torch's layout, and the
values are rounded to float32:

* `*.running_var`: uniform in [0.5, 2];
* `*.running_mean`: normal, standard deviation 0.2;
* a tensor of two or more axes: normal, standard deviation sqrt(2 / fan-in); the fan-in is the product of all axes but
  the first;
* any other `*.weight` (batch norm): uniform in [0.5, 1.5];
* the rest (biases): normal, standard deviation 0.1.

Images [n, size, size, 3] are standard normal, from the generator with seed 7.

Names and shapes come from the port table of the network. A wrong row therefore loads a tensor of another name, or one
that lies in memory another way, and the outputs differ from torch's.
"""

import functools
import hashlib
import math
from typing import Any

import numpy as np

from jaxft.core import paths
from jaxft.models import Network, create_model
from jaxft.models.structure import expected_shapes
from jaxft.weights import Manifest, find_port, port

# The side of the summarized images, in pixels. 48 is even at every stride but the last, so one-sided padding is seen,
# and leaves batch norm eight values a channel at the end. At 50, each pool of SqueezeNet 1.1 rounds up.
SIZES_PX = {"resnet18": 48, "resnet50": 48, "squeezenet1_0": 48, "squeezenet1_1": 50}
TRAINED = ("resnet18", "resnet50", "squeezenet1_0")  # networks whose training step is compared


def name_rng(name: str) -> np.random.Generator:
    """Returns the random generator of the tensor called `name`."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))


def draw_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the float32 tensor that torch calls `name`, of torch's `shape`."""
    rng = name_rng(name)
    if name.endswith("running_var"):
        values = rng.uniform(0.5, 2.0, shape)
    elif name.endswith("running_mean"):
        values = rng.normal(0.0, 0.2, shape)
    elif len(shape) >= 2:
        values = rng.normal(0.0, np.sqrt(2.0 / math.prod(shape[1:])), shape)
    elif name.endswith("weight"):
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = rng.normal(0.0, 0.1, shape)
    return values.astype(np.float32)


def draw_weights(model: Network) -> dict[str, np.ndarray]:
    """Returns the float32 tensors of `model` by their torch names, in torch's layout."""
    tensors = {}
    for leaf, shape in expected_shapes(model, model.preprocessing.size_px).items():
        row, name = find_port(leaf, model)
        tensors[name] = draw_tensor(name, row.to_file(np.broadcast_to(np.float32(0), shape)).shape)
    return tensors


def draw_images(size_px: int, count: int = 2) -> np.ndarray:
    """Returns float32 images [count, size_px, size_px, 3]."""
    return np.random.default_rng(7).normal(0, 1, (count, size_px, size_px, 3)).astype(np.float32)


def load_drawn(model: Network, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the variables of `model` that its port table makes of `tensors`."""
    manifest = Manifest("drawn", "", model.architecture, model.preprocessing)
    return paths.unflatten(port(tensors, model, manifest, "load"))


@functools.lru_cache(maxsize=1)
def drawn_network(name: str) -> tuple[Network, dict[str, np.ndarray]]:
    """Returns the network called `name`, with 1000 classes, and its drawn tensors by their torch names."""
    model = create_model(name, num_classes=1000)
    return model, draw_weights(model)
