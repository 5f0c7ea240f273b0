"""Weights of a network from a file, ported by the naming of the file's tensors.

Weights are data, never code. A file that somebody published is known by its sha256; a file written here carries a
digest of its tensors. Either way a flipped bit is an error. What a network needs to know besides its numbers (class
names, preprocessing, origin) travels with them in a `Manifest`.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxft.core import paths
from jaxft.core.digests import sha256_of
from jaxft.core.errors import UserError
from jaxft.models import Network, create_model
from jaxft.models.initialization import init_head
from jaxft.weights.damage import refuse_damaged
from jaxft.weights.formats import Contents, Format, format_of
from jaxft.weights.manifest import METADATA_KEY, Manifest, digest_of, manifest_of_record, read_record
from jaxft.weights.namings import find_naming, naming_of
from jaxft.weights.porting import fit, port, to_foreign
from jaxft.weights.published import check_name, find_file, find_model, published_manifest

Variables = dict[str, Any]


def load_weights(
    path: str | Path,
    model: Network,
    head: Literal["load", "new"] = "load",
    key: Any = None,
    check_values: bool = True,
) -> Variables:
    """Returns the variables of `model` (`params`, `batch_stats`) ported from the weight file at `path`.

    Args:
      path: a file of a known format, whose tensors have a naming of the model's family or the names of the model's own
        variables, or `package:NAME` for the file that an installed package carries.
      model: a network from `create_model`.
      head: 'load' takes the file's classifier; 'new' leaves it out and initializes one of the model's own
        `num_classes` from `key` (`jax.random.key(0)` where none is given).
      check_values: False loads values that no network can compute with, for analysis (`damaged_values` says which).

    A counter of batches that the file has is kept as the collection `counters`, for the way back.

    Raises:
      UserError: the file is missing, truncated or altered, any tensor is missing, left over or of the wrong shape (the
        message counts them), or holds NaN, an infinity, or a variance that is negative or wrongly zero.
    """
    return load(path, model, head, key, check_values=check_values)[0]


def load(
    path: str | Path,
    model: Network,
    head: Literal["load", "new"] = "load",
    key: Any = None,
    size_px: int | None = None,
    check_values: bool = True,
) -> tuple[Variables, Manifest]:
    """Returns what `load_weights` returns, and the manifest; a new head is made for images of `size_px`."""
    flat, manifest = load_flat(path, model, head, check_values)
    if head == "new":
        import jax

        fresh = init_head(model, jax.random.key(0) if key is None else key, size_px or manifest.preprocessing.size_px)
        flat |= paths.flatten(fresh)
    return paths.unflatten(flat), manifest


def load_flat(
    path: str | Path, model: Network, head: Literal["load", "new"] = "load", check_values: bool = True
) -> tuple[dict[str, Any], Manifest]:
    """Returns the variables by name, as `load` does, and the manifest; with head 'new' those below the head only."""
    if head not in ("load", "new"):
        raise UserError(f"head is {head!r}; allowed: 'load' or 'new'.")
    import jax.numpy as jnp

    tensors, manifest = read_file(path, model)
    flat = port(tensors, model, manifest, head)
    if check_values:
        refuse_damaged(flat, path)
    return {n: leaf if n.startswith("counters/") else jnp.asarray(leaf) for n, leaf in flat.items()}, manifest


def read_network(
    path: str | Path, name: str | None = None, check_values: bool = True
) -> tuple[Network, Variables, Manifest]:
    """Returns the network that a weight file is for (or the one called `name`), its variables, and the manifest.

    The network has as many classes as the file's classifier; of a file without one, the variables have no head. With
    `check_values` False, values that no network can compute with are loaded too (`damaged_values`).
    """
    model = create_model(name or find_model(path), num_classes=2)
    tensors, manifest = read_file(path, model)
    model, flat = fit(tensors, model, manifest)
    if check_values:
        refuse_damaged(flat, path)
    return model, paths.unflatten(flat), manifest


def read_file(path: str | Path, model: Network) -> tuple[dict[str, np.ndarray], Manifest]:
    """Returns the tensors of a weight file by their names in it, and its manifest, after checking the file.

    Formats are told apart by content. Tensors keep the types they have in the file; `port` makes all float32.

    Raises:
      UserError: the file is missing or damaged, or is for another network than `model`.
    """
    path = find_file(path)
    sha256 = sha256_of(path.read_bytes())
    manifest = published_manifest(path, sha256)
    form = format_of(path)
    is_named = form.name == "torch" and check_name(path, sha256)
    contents = form.read(path)
    naming = find_naming(contents.tensors.keys(), model, path.name)
    if manifest is not None:
        checked = "its sha256 is that of the published file"
    elif METADATA_KEY in contents.metadata:
        record = read_record(path, contents.metadata[METADATA_KEY])
        manifest = manifest_of_record(record, path.name, sha256)
        if not _has_digest(record, contents, model, form):
            raise UserError(f"the weight file {str(path)!r} is damaged: its tensors differ from those written.")
        checked = "its tensors have the sha256 that was written with them"
    else:
        checked = "its sha256 begins as its name says" if is_named else contents.checked
        manifest = Manifest(path.name, sha256, model.architecture, model.preprocessing, assumed=True)
    if manifest.model != model.architecture:  # the tensors may fit all the same, but not the input or the padding
        raise UserError(f"{path.name} is for {manifest.model}, not for {model.architecture}; name that model.")
    naming = naming_of(model, manifest.naming) if form.has_own_names else naming
    return contents.tensors, dataclasses.replace(
        manifest,
        metadata=tuple(sorted((name, text) for name, text in contents.metadata.items() if name != METADATA_KEY)),
        format=contents.variant or form.name,
        checked=checked,
        layout=naming.layout,
        naming=naming.name,
    )


def _has_digest(record: Mapping[str, Any], contents: Contents, model: Network, form: Format) -> bool:
    """Tells whether the tensors are those that were written with a record.

    Files of Flax's msgpack that name no naming have the digest of the tensors by their published names.
    """
    tensors = contents.tensors
    if form.has_own_names and "naming" not in record and record["model"] == model.architecture:
        try:
            tensors = to_foreign(model, paths.unflatten(tensors))
        except (UserError, ValueError, IndexError):
            return False
    return digest_of(tensors) == record["tensors_sha256"]
