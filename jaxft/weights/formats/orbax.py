"""Orbax checkpoints: folders with a description of a pytree, and its arrays in the format of TensorStore."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.core import paths
from jaxft.core.reading import TEXT_BYTES, check_regular, read_file
from jaxft.weights.formats.format import Contents, Format
from jaxft.weights.formats.refusal import check_expansion, explained_damage, printable, refuse
from jaxft.weights.formats.trees import leaf_names

if TYPE_CHECKING:
    import numpy as np

DESCRIPTION, METADATA = "_METADATA", "_CHECKPOINT_METADATA"
KIND = "an Orbax checkpoint"


def read(folder: Path) -> Contents:
    """Returns the parameters and statistics in a checkpoint of variables, or of a whole `TrainState`."""
    with explained_damage(folder, KIND):
        description = json.loads(read_file(folder / DESCRIPTION, TEXT_BYTES))
        arrays = _array_names(description)
        num_bytes = sum(file.stat().st_size for file in files(folder))
        tensors: dict[str, np.ndarray] = {}
        total = 0
        for name, leaf in leaf_names(arrays).items():
            tensors[leaf] = _read_array(_spec(folder, description, arrays[name]), num_bytes)
            total += tensors[leaf].nbytes
            check_expansion(total, num_bytes)
        return Contents(tensors, _texts(folder), "orbax")


def read_metadata(folder: Path) -> dict[str, str]:
    """Returns the texts in the metadata of a checkpoint."""
    with explained_damage(folder, KIND):
        return _texts(folder)


def _texts(folder: Path) -> dict[str, str]:
    """Returns the texts that jaxft wrote to the metadata of a checkpoint."""
    file = folder / METADATA
    metadata = (json.loads(read_file(file, TEXT_BYTES)).get("custom_metadata") if file.is_file() else None) or {}
    return {name: text for name, text in metadata.items() if isinstance(text, str)}


def _array_names(description: Mapping[str, Any]) -> dict[str, str]:
    """Returns the name of each array in TensorStore (with dots), by its name in the tree (with slashes)."""
    names = {}
    for entry in description["tree_metadata"].values():
        keys = [str(key["key"]) for key in entry["key_metadata"]]
        value = entry["value_metadata"]
        if any(character in key for key in keys for character in "/\\\0"):
            refuse(f"has an array with the name {printable(repr(keys))}")
        if value["value_type"] in ("jax.Array", "np.ndarray") and not value.get("skip_deserialize"):
            names["/".join(keys)] = ".".join(keys)
    return names


def _spec(folder: Path, description: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the specification of an array for TensorStore."""
    base = f"file://{folder.resolve()}/"
    is_database = description.get("use_ocdbt", True)
    store = {"driver": "ocdbt", "base": base, "path": f"{name}/"} if is_database else f"{base}{name}/"
    return {"driver": "zarr3" if description.get("use_zarr3") else "zarr", "kvstore": store}


def _read_array(spec: Mapping[str, Any], num_bytes: int) -> "np.ndarray":
    """Returns an array of a checkpoint of `num_bytes`, after a check of its declared shape and of its chunks."""
    import numpy as np
    import tensorstore

    store = tensorstore.open(spec, open=True, read=True).result()
    for shape in (store.shape, store.chunk_layout.read_chunk.shape or ()):
        check_expansion(math.prod(size or 1 for size in shape) * store.dtype.numpy_dtype.itemsize, num_bytes)
    array = np.asarray(store.read().result())
    if array.dtype.kind not in "fiubV":
        refuse(f"has an array of the type {array.dtype}; weights are numbers")
    return array


def write(folder: Path, tensors: "Mapping[str, np.ndarray]", metadata: Mapping[str, str]) -> None:
    """Writes a checkpoint with nested dicts of arrays of any shape, for any checkpointer of Orbax."""
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder.resolve(), paths.unflatten(tensors), custom_metadata=dict(metadata))


def matches_folder(folder: Path) -> bool:
    """Returns whether a folder has the description of a checkpoint."""
    return (folder / DESCRIPTION).is_file()


def files(folder: Path) -> list[Path]:
    """Returns the files in the folder and its subfolders.

    Raises:
      UserError: a file is a named pipe, a socket or a device.
    """
    paths_in_folder = sorted(path for path in folder.rglob("*") if not path.is_dir())
    for path in paths_in_folder:
        with explained_damage(path, KIND):
            check_regular(path)
    return paths_in_folder


ORBAX = Format(
    "orbax",
    (".orbax",),
    matches=lambda first_bytes: False,
    read=read,
    write=write,
    read_metadata=read_metadata,
    naming="flax",
    matches_folder=matches_folder,
    files=files,
)
