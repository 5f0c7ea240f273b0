"""Writes weights in the names and layout of published files, with a record of what belongs to them."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft.core import paths
from jaxft.core.errors import UserError
from jaxft.models import Network
from jaxft.models.structure import expected_shapes
from jaxft.weights.formats import format_to_write
from jaxft.weights.manifest import Manifest, write_record
from jaxft.weights.namings import OWN, naming_of
from jaxft.weights.porting import is_head, to_foreign


def save_weights(
    path: str | Path,
    model: Network,
    variables: Mapping[str, Any],
    manifest: Manifest | None = None,
    naming: str = "",
) -> None:
    """Writes variables to `path` in the format of its suffix.

    `.safetensors` and PyTorch's `.pth` (`.pt`, `.th`, `.bin`) have published names and layouts; `.msgpack` is for
    `flax.serialization.from_bytes`: nested `params` and `batch_stats`, with the names here.

    Loaded and saved again, every tensor has the bits it came with. The manifest (`load` returns it) goes into the
    file's metadata. Without one the class names and the preprocessing are lost: the file says that the model's usual
    preprocessing is assumed.

    Args:
      naming: how tensors are called: 'torchvision', 'timm'; empty: as in the file that the manifest is of, else as
        the model's published files call them.

    Raises:
      UserError: there is no such folder, format or naming.
    """
    check_output_path(path)
    if manifest is None:
        expected = dataclasses.replace(model.preprocessing, size_px=fitting_size(model, variables))
        manifest = Manifest(Path(path).name, "", model.architecture, expected, assumed=True)
    form, chosen = format_to_write(path), naming_of(model, naming or manifest.naming)
    tensors = to_foreign(model, variables, OWN if form.has_own_names else chosen)
    assert form.write is not None
    record = dataclasses.replace(manifest, layout=chosen.layout, naming=chosen.name)
    form.write(Path(path), tensors, write_record(record, tensors))


def check_output_path(path: str | Path) -> None:
    """Raises a `UserError` where no weights can be saved at `path`: no format has its suffix, or there is no folder."""
    if not Path(path).parent.is_dir():
        raise UserError(f"there is no folder {str(Path(path).parent)!r} to save {Path(path).name!r} in.")
    format_to_write(path)


def fitting_size(model: Network, variables: Mapping[str, Any]) -> int:
    """Returns the size of images that the head of `variables` fits: the model's usual one, or the first that does."""
    params = paths.flatten({"params": variables["params"]})
    head = {name: tuple(leaf.shape) for name, leaf in params.items() if is_head(name, model)}
    expected = model.preprocessing.size_px
    for size_px in (expected, 8, 16, 24, 28, 48, 64, 96, 128, 160, 192, 224):
        with contextlib.suppress(UserError):
            if head.items() <= expected_shapes(model, size_px).items():
                return size_px
    return expected
