"""Keras files: `.h5` (weights or whole models of Keras 1 to 3), `.weights.h5`, and the archives `.keras`.

Tensors are called `layer/variable`, such as `conv1/kernel`. Reading needs no package; writing needs h5py.
"""

import io
import itertools
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.core.errors import UserError
from jaxft.core.reading import entry_bound, read_entry, read_file
from jaxft.weights.formats.archives import check_entries, first_entry
from jaxft.weights.formats.format import Contents, Format
from jaxft.weights.formats.refusal import explained_damage, printable, refuse

if TYPE_CHECKING:
    import numpy as np

    from jaxft.weights.formats.hdf5 import Hdf5Object

MAGIC = b"\x89HDF\r\n\x1a\n"
METADATA = "jaxft_metadata"  # group with a text per dataset, as UTF-8 bytes
WEIGHTS = "model.weights.h5"  # entry of a `.keras` archive
ARCHIVE = (WEIGHTS, "config.json", "metadata.json")
LAYERS = ("layers", "_layer_checkpoint_dependencies")  # groups of Keras 3, and of Keras 2.13
# Variables of each class of layers, in the order of Keras.
VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
ORDER = ("kernel", "gamma", "bias", "beta", "moving_mean", "moving_variance")
OTHER_NAMES = {
    "W": "kernel",
    "b": "bias",
    "depthwise_kernel": "kernel",
    "running_mean": "moving_mean",
}  # older versions


def read(path: Path) -> Contents:
    """Returns the contents of a Keras file."""
    from jaxft.weights.formats.hdf5 import open_hdf5

    with explained_damage(path, "a Keras file"):
        content = read_file(path)
        if not content.startswith(MAGIC):
            content = _weights_in(content)
        root = open_hdf5(content)
        tensors = _arrays(_datasets(root), len(content))
        metadata = _arrays(root[METADATA].datasets(), len(content)) if METADATA in root.links else {}
        texts = {name: array.tobytes().decode() for name, array in metadata.items()}
        return Contents(tensors, texts, "keras")


def _arrays(datasets: "Iterable[tuple[str, Hdf5Object]]", num_bytes: int) -> "dict[str, np.ndarray]":
    """Returns the values of datasets by name, from a file of `num_bytes`."""
    arrays: dict[str, np.ndarray] = {}
    total = 0
    for name, dataset in datasets:
        if name in arrays:
            refuse(f"has two tensors called {printable(name)!r}")
        arrays[name] = dataset.array()
        total += arrays[name].nbytes
        if total > num_bytes:
            refuse("has overlapping datasets")
    return arrays


def _weights_in(content: bytes) -> bytes:
    """Returns the HDF5 file in a `.keras` archive."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    check_entries(archive, len(content))
    if WEIGHTS not in archive.namelist():
        refuse(f"has no {WEIGHTS}, where Keras stores the weights")
    entry = archive.getinfo(WEIGHTS)
    return read_entry(archive, entry, entry_bound(entry, len(content)))


def _datasets(root: "Hdf5Object") -> "Iterator[tuple[str, Hdf5Object]]":
    """Yields the datasets of the layers, but not those of the optimizer, with the names of their tensors."""
    if _listed(root, "layer_names") is None and "model_weights" in root.links:
        root = root["model_weights"]
    is_legacy = _listed(root, "layer_names") is not None
    if not is_legacy and not any(name in root.links for name in LAYERS):
        refuse("is an HDF5 file without layers of Keras")
    yield from _legacy_datasets(root) if is_legacy else _layer_datasets(root)


def _listed(group: "Hdf5Object", attribute: str) -> list[str] | None:
    """Returns the strings of an attribute; Keras splits a long list into `attribute0`, `attribute1`, ..."""
    texts = group.texts(attribute)
    chunks: list[str] = []
    for i in itertools.count():
        chunk = group.texts(f"{attribute}{i}")
        if chunk is None:
            return chunks if texts is None and i > 0 else texts
        chunks += chunk
    return None


def _legacy_datasets(root: "Hdf5Object") -> "Iterator[tuple[str, Hdf5Object]]":
    """Yields the datasets of a file of layer groups, with a list of layers and a list of weights in each."""
    for layer in _listed(root, "layer_names") or []:
        paths = _listed(root[layer], "weight_names") or []
        is_model = len({path.rpartition("/")[0] for path in paths}) > 1  # a nested model, whose layers are in the paths
        variables = _variables([path.rpartition("/")[2] for path in paths], layer)
        for path, variable in zip(paths, variables):
            parent = path.rpartition("/")[0] if is_model else layer
            yield f"{parent}/{variable}", root[layer][path]


def _variables(names: list[str], layer: str) -> list[str]:
    """Returns the names of the variables of a layer in Keras 3, from the names in a file, such as `conv1_W:0`.

    A single unknown name, such as `uniform_3` of early versions, is that of the kernel.
    """
    plain = [re.sub(r":\d+$", "", name).removeprefix(f"{layer}_") for name in names]
    plain = [OTHER_NAMES.get(name, name) for name in plain]
    unknown = [name for name in plain if name not in ORDER]
    return ["kernel" if [name] == unknown and "kernel" not in plain else name for name in plain]


def _layer_datasets(group: "Hdf5Object", depth: int = 0) -> "Iterator[tuple[str, Hdf5Object]]":
    """Yields the datasets of a file of Keras 3, whose groups are called after the classes of layers.

    The attribute `name` of the group of variables is the name of the layer. A nested model is a layer with layers.
    """
    if depth > 8:
        refuse("has models that are nested too deeply")
    for layers in (group[name] for name in LAYERS if name in group.links):
        for key in layers.links:
            yield from _layer_datasets(layers[key], depth + 1)
            if "vars" in layers[key].links:
                yield from _variables_of(layers[key]["vars"], key)


def _variables_of(variables: "Hdf5Object", key: str) -> "Iterator[tuple[str, Hdf5Object]]":
    """Yields the datasets of a layer, which are numbered in the order of `VARIABLES`.

    Args:
      variables: the group of datasets.
      key: the class of the layer with a number, such as `conv2d_3`.
    """
    layer = (variables.texts("name") or [key])[0]
    names = VARIABLES.get(re.sub(r"_\d+$", "", key), ())
    for number in variables.links:
        is_known = number.isdecimal() and int(number) < len(names)
        yield f"{layer}/{names[int(number)] if is_known else number}", variables[number]


def write(path: Path, tensors: "Mapping[str, np.ndarray]", metadata: Mapping[str, str]) -> None:
    """Writes a file for `load_weights` of Keras, with the layers in the order of `tensors`.

    A name that ends in `.weights.h5` gives the layout of Keras 3, any other name the older one.

    Args:
      path: path of the file.
      tensors: arrays of any shape by name, `layer/variable`.
      metadata: texts by name; Keras ignores them.

    Raises:
      UserError: a tensor is not a variable of a layer of Keras.
    """
    import h5py
    import numpy as np

    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in tensors.items():
        layer, _, variable = name.rpartition("/")
        if variable not in ORDER or not layer:
            raise UserError(
                f"the tensor {name!r} is not a variable of a layer of Keras, so a Keras file cannot store it."
            )
        layers.setdefault(layer, {})[variable] = array
    ordered = {layer: {name: arrays[name] for name in ORDER if name in arrays} for layer, arrays in layers.items()}
    with h5py.File(path, "w", libver="earliest") as file:
        if path.name.endswith(".weights.h5"):
            _write_layers(file, ordered)
        else:
            _write_legacy(file, ordered)
        for name, text in metadata.items():
            file.create_dataset(f"{METADATA}/{name}", data=np.frombuffer(text.encode(), np.uint8))


def _write_legacy(file: Any, layers: "Mapping[str, Mapping[str, np.ndarray]]") -> None:
    """Writes a group per layer, with the list of its weights, and the list of layers."""
    import numpy as np

    file.attrs["layer_names"] = np.array(list(layers), "S")
    file.attrs["backend"], file.attrs["keras_version"] = b"jax", b"3.0.0"
    for layer, arrays in layers.items():
        group = file.require_group(layer)
        group.attrs["weight_names"] = np.array([f"{layer}/{name}:0" for name in arrays], "S")
        for name, array in arrays.items():
            group.create_dataset(f"{layer}/{name}:0", data=array)


def _write_layers(file: Any, layers: "Mapping[str, Mapping[str, np.ndarray]]") -> None:
    """Writes a group per layer, called after its class and numbered in each class, with numbered variables."""
    counts: dict[str, int] = {}
    for layer, arrays in layers.items():
        kind = _class_of(arrays)
        number = counts.get(kind, 0)
        counts[kind] = number + 1
        group = file.create_group(f"layers/{kind}_{number}" if number else f"layers/{kind}").create_group("vars")
        group.attrs["name"] = layer
        for i, array in enumerate(arrays.values()):
            group.create_dataset(str(i), data=array)


def _class_of(arrays: "Mapping[str, np.ndarray]") -> str:
    """Returns the class of the layer of Keras that has these variables."""
    if "kernel" not in arrays:
        return "batch_normalization"
    kernel = arrays["kernel"]
    if kernel.ndim == 2:
        return "dense"
    return "depthwise_conv2d" if kernel.shape[3] == 1 < kernel.shape[2] else "conv2d"


KERAS = Format(
    "keras",
    (".h5", ".hdf5"),
    matches=lambda first_bytes: first_bytes.startswith(MAGIC),
    read=read,
    write=write,
    naming="keras",
    package="h5py",
)
# jaxft does not write archives: they contain the definition of the network in Keras.
KERAS_ARCHIVE = Format(
    "keras-archive",
    (".keras",),
    matches=lambda first_bytes: first_entry(first_bytes) in ARCHIVE,
    read=read,
    naming="keras",
)
