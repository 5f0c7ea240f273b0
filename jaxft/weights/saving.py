"""Saving of weight files, with the names and layout of published files and a record of their metadata."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft.core import paths
from jaxft.core.errors import UserError
from jaxft.core.files import explained_os_errors, replacing_files
from jaxft.models import Network
from jaxft.models.structure import expected_shapes
from jaxft.weights.formats import format_to_write, matching_formats
from jaxft.weights.manifest import Manifest, write_record
from jaxft.weights.namings import naming_of
from jaxft.weights.porting import is_head, to_tensors


def save_weights(
    path: str | Path,
    model: Network,
    variables: Mapping[str, Any],
    manifest: Manifest | None = None,
    naming: str = "",
) -> None:
    """Saves the variables of a network to a weight file, in the format of its suffix.

    `.safetensors`, `.safetensors.index.json` (sharded), `.npz` and the PyTorch suffixes `.pth`, `.pt`, `.th` and `.bin`
    use the names and layouts of published files. `.msgpack` is for `flax.serialization.from_bytes`, and `.orbax` is a
    folder for Orbax: nested `params` and `batch_stats` with leaf names. `.h5` and `.weights.h5` are for Keras, and
    `.caffemodel` is for Caffe, with the names that these use.

    Weights that are loaded and saved again are bit-identical. The metadata of the file contains the manifest.

    Args:
      path: path of the file.
      model: the network.
      variables: nested dict of arrays, such as `{"params": ..., "batch_stats": ...}`.
      manifest: metadata of the weights, from `load`. If None, the file has no class names, and its preprocessing is the
        default of the network, marked as assumed.
      naming: naming of the tensors, such as 'torchvision' or 'timm'. If empty, the naming in the manifest, or the
        default naming of the network.

    Raises:
      UserError: the folder, the format or the naming does not exist.

    Example:
      >>> network = jaxft.load("resnetsmall14.cifar10.safetensors")
      >>> jaxft.save_weights("copy.pth", network.model, network.variables, network.manifest)
    """
    check_output_path(path)
    if manifest is None:
        expected = dataclasses.replace(model.preprocessing, size_px=fitting_size(model, variables))
        manifest = Manifest(Path(path).name, "", model.architecture, expected, assumed=True)
    file_format, file_naming = format_to_write(path), naming_of(model, naming or manifest.naming)
    tensors = to_tensors(model, variables, naming_of(model, file_format.naming) if file_format.naming else file_naming)
    assert file_format.write is not None
    record = dataclasses.replace(manifest, layout=file_naming.layout, naming=file_naming.name)
    with explained_os_errors(Path(path)), replacing_files(Path(path)) as temporary:
        file_format.write(temporary, tensors, write_record(record, tensors))


def check_output_path(path: str | Path) -> None:
    """Checks that weights can be saved to `path`.

    Raises:
      UserError: the folder does not exist, no format has this suffix, or `path` is a folder with other files.
    """
    if not Path(path).parent.is_dir():
        raise UserError(f"there is no folder {str(Path(path).parent)!r} to save {Path(path).name!r} in.")
    file_format = format_to_write(path)
    if Path(path).is_dir() and file_format not in matching_formats(Path(path)):
        raise UserError(f"{str(path)!r} is a folder with other files than a checkpoint; use another name.")


def fitting_size(model: Network, variables: Mapping[str, Any]) -> int:
    """Returns an image size, in pixels, for which the head in `variables` has the right shape.

    The default size of the model is tried first, and is also the result if no size fits.
    """
    params = paths.flatten({"params": variables["params"]})
    head = {name: tuple(leaf.shape) for name, leaf in params.items() if is_head(name, model)}
    expected = model.preprocessing.size_px
    for size_px in (expected, 8, 16, 24, 28, 48, 64, 96, 128, 160, 192, 224):
        with contextlib.suppress(UserError):
            if head.items() <= expected_shapes(model, size_px).items():
                return size_px
    return expected
