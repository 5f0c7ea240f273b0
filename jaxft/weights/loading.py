"""Loading of weight files into the variables of a network.

Loading never runs code from a file. jaxft checks the sha256 of published files, and for files that it wrote, a digest
of their tensors. So a single flipped bit in them is an error. A `Manifest` contains the metadata of the weights: class
names, preprocessing, origin.
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
from jaxft.weights.porting import port, port_with_head, to_tensors
from jaxft.weights.published import check_sha256_in_name, find_file, find_model, published_manifest

Variables = dict[str, Any]


def load_weights(
    path: str | Path,
    model: Network,
    head: Literal["load", "new"] = "load",
    key: Any = None,
    check_values: bool = True,
) -> Variables:
    """Returns the variables of `model`, loaded from a weight file.

    The variables have the collections `params` and `batch_stats`. If the file contains the batch
    counters of batch norms (`num_batches_tracked`), they are in the collection `counters`, so that `save_weights` can
    write them again.

    Args:
      path: a weight file of a known format, or `package:NAME` for the weight file in an installed package. The tensor
        names follow one of the namings of the network family, or are the leaf names of `model`.
      model: a network from `create_model` or `adapt`.
      head: 'load' loads the classifier of the file; 'new' initializes a new classifier for the classes of `model`.
      key: key for the initialization of a new head. If None, `jax.random.key(0)`.
      check_values: whether invalid values (`jaxft.weights.damage.damaged_values`) are an error; False loads them, for
        analysis.

    Raises:
      UserError: the file is missing, truncated or altered; its values are invalid; or tensors are missing, left over or
        of the wrong shape.

    Example:
      >>> model = jaxft.create_model("resnetsmall14", num_classes=5)
      >>> variables = jaxft.load_weights("resnetsmall14.cifar10.safetensors", model, head="new", key=jax.random.key(0))
      >>> logits = model.apply(variables, images)  # [n, 5], for preprocessed images [n, 32, 32, 3]
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
    """Returns the variables of `model`, loaded from a weight file, and the manifest.

    Args:
      path: see `load_weights`.
      model: see `load_weights`.
      head: see `load_weights`.
      key: see `load_weights`.
      size_px: image size for a new head, in pixels. If None, the size in the manifest.
      check_values: see `load_weights`.

    Raises:
      UserError: see `load_weights`.
    """
    flat, manifest = load_flat(path, model, head, check_values)
    if head == "new":
        import jax

        key = jax.random.key(0) if key is None else key
        flat |= paths.flatten(init_head(model, key, size_px or manifest.preprocessing.size_px))
    return paths.unflatten(flat), manifest


def load_flat(
    path: str | Path, model: Network, head: Literal["load", "new"] = "load", check_values: bool = True
) -> tuple[dict[str, Any], Manifest]:
    """Returns the variables by leaf name, such as `params/head/kernel`, and the manifest.

    Args:
      path: see `load_weights`.
      model: see `load_weights`.
      head: 'load' returns all variables, 'new' only the variables of the backbone.
      check_values: see `load_weights`.

    Raises:
      UserError: `head` or the file is invalid; see `load_weights`.
    """
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
    """Returns the network of a weight file, its variables, and the manifest.

    The classifier in the file determines the number of classes. If the file has no classifier, the variables contain no
    head.

    Args:
      path: see `load_weights`.
      name: name of the network. If None, `find_model` determines it from the file.
      check_values: see `load_weights`.

    Raises:
      UserError: the network of the file is unknown, or the file is invalid; see `load_weights`.
    """
    model = create_model(name or find_model(path), num_classes=2)
    tensors, manifest = read_file(path, model)
    model, flat = port_with_head(tensors, model, manifest)
    if check_values:
        refuse_damaged(flat, path)
    return model, paths.unflatten(flat), manifest


def read_file(path: str | Path, model: Network) -> tuple[dict[str, np.ndarray], Manifest]:
    """Returns the tensors of a weight file by their names in the file, and the manifest.

    The content of the file determines the format, not the suffix. Tensors keep the dtypes of the file; `port` converts
    them to float32.

    Raises:
      UserError: the file is missing or damaged, or is for a network other than `model`.
    """
    path = find_file(path)
    sha256 = sha256_of(path.read_bytes())
    manifest = published_manifest(path, sha256)
    file_format = format_of(path)
    is_sha256_in_name = file_format.name == "torch" and check_sha256_in_name(path, sha256)
    contents = file_format.read(path)
    naming = find_naming(contents.tensors.keys(), model, path.name)
    if manifest is not None:
        checked = "its sha256 matches the published file"
    elif METADATA_KEY in contents.metadata:
        record = read_record(path, contents.metadata[METADATA_KEY])
        manifest = manifest_of_record(record, path.name, sha256)
        if not _has_digest(record, contents, model, file_format):
            raise UserError(
                f"the weight file {str(path)!r} is damaged: its tensors do not match the sha256 in its metadata; "
                "download it or train it again."
            )
        checked = "its tensors match the sha256 in its metadata"
    else:
        checked = "its sha256 matches its name" if is_sha256_in_name else contents.checked
        manifest = Manifest(path.name, sha256, model.architecture, model.preprocessing, assumed=True)
    if manifest.model != model.architecture:  # an error even if the tensors fit: preprocessing or padding may differ
        raise UserError(
            f"{path.name} is for {manifest.model}, not for {model.architecture}; use the model {manifest.model}."
        )
    naming = naming_of(model, manifest.naming) if file_format.uses_leaf_names else naming
    return contents.tensors, dataclasses.replace(
        manifest,
        metadata=tuple(sorted((name, text) for name, text in contents.metadata.items() if name != METADATA_KEY)),
        format=contents.variant or file_format.name,
        checked=checked,
        layout=naming.layout,
        naming=naming.name,
    )


def _has_digest(record: Mapping[str, Any], contents: Contents, model: Network, file_format: Format) -> bool:
    """Returns whether the tensors match the digest in `record`.

    If the record of a msgpack file has no naming, its digest covers the tensors under their published names.
    """
    tensors = contents.tensors
    if file_format.uses_leaf_names and "naming" not in record and record["model"] == model.architecture:
        try:
            tensors = to_tensors(model, paths.unflatten(tensors))
        except (UserError, ValueError, IndexError):
            return False
    return digest_of(tensors) == record["tensors_sha256"]
