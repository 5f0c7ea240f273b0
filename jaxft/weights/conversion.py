"""Conversion of weight files to another format or naming."""

from pathlib import Path

from jaxft.weights.loading import read_network
from jaxft.weights.manifest import Manifest
from jaxft.weights.namings import naming_of
from jaxft.weights.saving import check_output_path, save_weights


def convert_weights(
    path: str | Path, out: str | Path, model: str | None = None, naming: str = "", state_dict: str | None = None
) -> Manifest:
    """Converts the weight file `path` to the file `out`, and returns the manifest.

    The values in `out` are float32.

    Args:
      path: a weight file, or `package:NAME` (see `load_weights`).
      out: path of the new file; its suffix selects the format.
      model: name of the network. If None, the file names it (`find_model`).
      naming: naming of the tensors in `out`, such as 'torchvision' or 'timm'. If empty, the naming of `path`.
      state_dict: see `load_weights`.

    Raises:
      UserError: the file is damaged or does not fit a network, or the folder, the format or the naming does not exist.
    """
    check_output_path(out)
    network, variables, manifest = read_network(path, model, state_dict=state_dict)
    naming_of(network, naming)
    save_weights(out, network, variables, manifest, naming)
    return manifest
