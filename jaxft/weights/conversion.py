"""Weights of a file in another format or naming."""

from pathlib import Path

from jaxft.core.files import explained_os_errors, replacing
from jaxft.weights.loading import read_network
from jaxft.weights.manifest import Manifest
from jaxft.weights.namings import naming_of
from jaxft.weights.saving import check_output_path, save_weights


def convert_weights(path: str | Path, out: str | Path, model: str | None = None, naming: str = "") -> Manifest:
    """Writes what the weight file at `path` holds to `out`, in the format of its suffix, and returns the manifest.

    Numbers are float32 in `out`, whatever they were.

    Args:
      model: the name of the network where the file does not say it (`find_model`).
      naming: how the tensors are called in `out`: 'torchvision', 'timm'; empty: as in the file.

    Raises:
      UserError: the file is damaged or fits no network, or there is no such folder, format or naming.
    """
    check_output_path(out)
    network, variables, manifest = read_network(path, model)
    naming_of(network, naming)
    with explained_os_errors(Path(out)), replacing(Path(out)) as temporary:
        save_weights(temporary, network, variables, manifest, naming)
    return manifest
