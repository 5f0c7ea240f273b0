"""Conversion of weight files to another format or naming."""

from pathlib import Path

from jaxft.weights.loading import read_network
from jaxft.weights.manifest import Manifest
from jaxft.weights.namings import naming_of
from jaxft.weights.options import NO_OPTIONS, ReadOptions
from jaxft.weights.saving import check_output_path, save_weights


def convert_weights(
    path: str | Path,
    out: str | Path,
    model: str | None = None,
    naming: str = "",
    options: ReadOptions = NO_OPTIONS,
) -> Manifest:
    """Converts the weight file `path` to the file `out`, and returns the manifest.

    The values in `out` are float32.

    Args:
      path: a weight file, or `package:NAME` (see `load_weights`).
      out: path of the new file; its suffix selects the format.
      model: name of the network. If None, the file names it (`find_model`).
      naming: naming of the tensors in `out`, such as 'torchvision' or 'timm'. If empty, the naming of `path`.
      options: the state dict, the preprocessing and the class names that the user gives for `path`.

    Raises:
      UserError: the file is damaged or does not fit a network, or the folder, the format or the naming does not exist.
    """
    check_output_path(out)
    network, variables, manifest = read_network(path, model, options=options)
    naming_of(network, naming)
    save_weights(out, network, variables, manifest, naming)
    return manifest
