"""Sharded safetensors: several safetensors files, and an index with the file of each tensor, as in Hugging Face."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.core.digests import sha256_of_file
from jaxft.core.errors import UserError
from jaxft.core.reading import TEXT_BYTES, read_file
from jaxft.core.text import some_of
from jaxft.weights.formats.format import Contents, Format
from jaxft.weights.formats.refusal import explained_damage, printable, refuse
from jaxft.weights.formats.safetensors import SAFETENSORS
from jaxft.weights.formats.safetensors import write as write_shard

if TYPE_CHECKING:
    import numpy as np

INDEX = ".safetensors.index.json"
SHARD_BYTES = 5_000_000_000  # largest size of the tensors of a shard, as in Hugging Face; a larger tensor has its own
DIGESTS = "shards_sha256"  # entry of the metadata with the sha256 of each shard; only jaxft writes it


def read(path: Path) -> Contents:
    """Returns the contents of all shards of an index.

    Raises:
      UserError: the index is damaged, or a shard is missing, damaged, or does not fit the index.
    """
    index = _read_index(path)
    digests = index["metadata"].get(DIGESTS)
    tensors: dict[str, Any] = {}
    for shard in _shards(path, index):
        if isinstance(digests, dict) and digests.get(shard.name) != sha256_of_file(shard):
            raise UserError(
                f"the shard {str(shard)!r} is damaged: its sha256 is not that in {path.name}; download it again."
            )
        expected = {name for name, file in index["weight_map"].items() if file == shard.name}
        contents = SAFETENSORS.read(shard).tensors
        different = sorted(expected ^ contents.keys())
        if different:
            raise UserError(
                f"the shard {str(shard)!r} does not fit {path.name}: they disagree about "
                f"{some_of([printable(name) for name in different], 3)}; download both again."
            )
        tensors |= contents
    checked = "the sha256 of each shard matches its index" if isinstance(digests, dict) else ""
    return Contents(tensors, _texts(index), "safetensors (sharded)", checked)


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the texts in the metadata of an index."""
    return _texts(_read_index(path))


def files(path: Path) -> list[Path]:
    """Returns the index and its shards.

    Raises:
      UserError: the index is damaged, or a shard is missing.
    """
    return [path, *_shards(path, _read_index(path))]


def _texts(index: Mapping[str, Any]) -> dict[str, str]:
    return {name: text for name, text in index["metadata"].items() if isinstance(text, str)}


def _read_index(path: Path) -> dict[str, Any]:
    """Returns the index, with the entries 'metadata' and 'weight_map'."""
    with explained_damage(path, "an index of sharded safetensors"):
        index = json.loads(read_file(path, TEXT_BYTES))
        names, metadata = index["weight_map"], index.setdefault("metadata", {})
        if not isinstance(metadata, dict) or not all(isinstance(name, str) for name in names.values()):
            refuse("has a wrong type in its weight_map or metadata")
        return index


def _shards(path: Path, index: Mapping[str, Any]) -> list[Path]:
    """Returns the paths of the shards in the order of their names; they must be in the folder of the index."""
    shards = []
    for name in sorted(set(index["weight_map"].values())):
        if name in ("", ".", "..") or any(character in name for character in "/\\\0:"):
            raise UserError(f"the index {str(path)!r} names the shard {printable(name)!r}, which is not in its folder.")
        if not path.with_name(name).is_file():
            raise UserError(
                f"the shard {printable(name)!r} of {str(path)!r} is missing; download it to the same folder."
            )
        shards.append(path.with_name(name))
    return shards


def write(path: Path, tensors: "Mapping[str, np.ndarray]", metadata: Mapping[str, str]) -> None:
    """Writes an index, and shards with at most `SHARD_BYTES` of tensors of any shape next to it."""
    groups: list[dict[str, np.ndarray]] = [{}]
    for name, array in tensors.items():
        if groups[-1] and sum(other.nbytes for other in groups[-1].values()) + array.nbytes > SHARD_BYTES:
            groups.append({})
        groups[-1][name] = array
    names = [
        f"{path.name.removesuffix(INDEX)}-{i:05}-of-{len(groups):05}.safetensors" for i in range(1, len(groups) + 1)
    ]
    for name, group in zip(names, groups):
        write_shard(path.with_name(name), group, {"format": "np"})
    digests = {name: sha256_of_file(path.with_name(name)) for name in names}
    total = sum(array.nbytes for array in tensors.values())
    index = {
        "weight_map": {tensor: name for name, group in zip(names, groups) for tensor in group},
        "metadata": {"total_size": total, **metadata, DIGESTS: digests},
    }
    path.write_text(json.dumps(index, indent=2), encoding="utf-8")


SAFETENSORS_INDEX = Format(
    "safetensors-index",
    (INDEX,),
    # A safetensors file can start with the same character, but has zeros in its first eight bytes.
    matches=lambda first_bytes: (
        first_bytes.startswith(b"{") and b'"weight_map"' in first_bytes and 0 not in first_bytes[:8]
    ),
    read=read,
    write=write,
    read_metadata=read_metadata,
    files=files,
)
