"""Loading of weight files into the variables of a network.

Loading never runs code from a file. jaxft checks the sha256 of published files, and for files that it wrote, a digest
of their tensors. So a single flipped bit in them is an error. A `Manifest` contains the metadata of the weights: class
names, preprocessing, origin.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxft.core import paths
from jaxft.core.errors import UserError
from jaxft.core.events import Warned, print_warnings
from jaxft.models import Network, create_model
from jaxft.models.initialization import init_head
from jaxft.weights.damage import refuse_damaged
from jaxft.weights.formats import Contents
from jaxft.weights.manifest import METADATA_KEY, Manifest
from jaxft.weights.metadata import with_given
from jaxft.weights.namings import Fit, find_fit, naming_of, note_of_prefix
from jaxft.weights.opening import open_file
from jaxft.weights.options import NO_OPTIONS, ReadOptions
from jaxft.weights.porting import num_classes_of, port, port_with_head
from jaxft.weights.published import find_model
from jaxft.weights.state_dicts import note_of_state_dict, select_state_dict

Variables = dict[str, Any]


def load_weights(
    path: str | Path,
    model: Network,
    head: Literal["load", "new"] = "load",
    key: Any = None,
    check_values: bool = True,
    state_dict: str | None = None,
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
      state_dict: which weights of a file with several networks are loaded: the name of a state dict in a checkpoint,
        such as `state_dict_ema`; the prefix of tensor names, such as `encoder_q`; or both, as in
        `state_dict_ema.encoder_q`. If None, a warning names the state dict that is loaded.

    Choices in reading the file, such as a prefix removed from its tensor names, are printed as warnings.

    Raises:
      UserError: the file is missing, truncated or altered; its values are invalid; or tensors are missing, left over or
        of the wrong shape.

    Example:
      >>> model = jaxft.create_model("resnetsmall14", num_classes=5)
      >>> variables = jaxft.load_weights("resnetsmall14.cifar10.safetensors", model, head="new", key=jax.random.key(0))
      >>> logits = model.apply(variables, images)  # [n, 5], for preprocessed images [n, 32, 32, 3]
    """
    variables, manifest = load(path, model, head, key, None, check_values, ReadOptions(state_dict))
    for note in manifest.notes:
        print_warnings(Warned(note))
    return variables


def load(
    path: str | Path,
    model: Network,
    head: Literal["load", "new"] = "load",
    key: Any = None,
    size_px: int | None = None,
    check_values: bool = True,
    options: ReadOptions = NO_OPTIONS,
) -> tuple[Variables, Manifest]:
    """Returns the variables of `model`, loaded from a weight file, and the manifest.

    Args:
      path: see `load_weights`.
      model: see `load_weights`.
      head: see `load_weights`.
      key: see `load_weights`.
      size_px: image size for a new head, in pixels. If None, the size in the manifest.
      check_values: see `load_weights`.
      options: see `read_file`.

    Raises:
      UserError: see `load_weights`.
    """
    flat, manifest = load_flat(path, model, head, check_values, options)
    if head == "new":
        import jax

        key = jax.random.key(0) if key is None else key
        flat |= paths.flatten(init_head(model, key, size_px or manifest.preprocessing.size_px))
    return paths.unflatten(flat), manifest


def load_flat(
    path: str | Path,
    model: Network,
    head: Literal["load", "new"] = "load",
    check_values: bool = True,
    options: ReadOptions = NO_OPTIONS,
) -> tuple[dict[str, Any], Manifest]:
    """Returns the variables by leaf name, such as `params/head/kernel`, and the manifest.

    Args:
      path: see `load_weights`.
      model: see `load_weights`.
      head: 'load' returns all variables, 'new' only the variables of the backbone.
      check_values: see `load_weights`.
      options: see `read_file`.

    Raises:
      UserError: `head` or the file is invalid; see `load_weights`.
    """
    if head not in ("load", "new"):
        raise UserError(f"head is {head!r}; allowed: 'load' or 'new'.")
    import jax.numpy as jnp

    tensors, manifest = read_file(path, model, options)
    manifest = manifest.without_foreign() if head == "new" else manifest
    flat = port(tensors, model, manifest, head)
    if check_values:
        refuse_damaged(flat, path)
    return {n: leaf if n.startswith("counters/") else jnp.asarray(leaf) for n, leaf in flat.items()}, manifest


def read_network(
    path: str | Path, name: str | None = None, check_values: bool = True, options: ReadOptions = NO_OPTIONS
) -> tuple[Network, Variables, Manifest]:
    """Returns the network of a weight file, its variables, and the manifest.

    The classifier in the file determines the number of classes. If the file has no classifier, the variables contain no
    head.

    Args:
      path: see `load_weights`.
      name: name of the network. If None, `find_model` determines it from the file.
      check_values: see `load_weights`.
      options: see `read_file`.

    Raises:
      UserError: the network of the file is unknown, or the file is invalid; see `load_weights`.
    """
    model = create_model(name or find_model(path, options.state_dict), num_classes=2)
    tensors, manifest = read_file(path, model, options)
    if manifest.num_classes is None:
        manifest = manifest.without_foreign()
    model, flat = port_with_head(tensors, model, manifest)
    if check_values:
        refuse_damaged(flat, path)
    return model, paths.unflatten(flat), manifest


def read_file(
    path: str | Path, model: Network, options: ReadOptions = NO_OPTIONS
) -> tuple[dict[str, np.ndarray], Manifest]:
    """Returns the tensors of a weight file by their names in its naming, without prefixes, and the manifest.

    Tensors keep the dtypes of the file; `port` converts them to float32. Tensors that belong to no part of the network
    are not returned; the manifest names them (`Manifest.foreign`).

    Args:
      path: see `load_weights`.
      model: the network, with any number of classes.
      options: the state dict, the preprocessing and the class names that the user gives for the file.

    Raises:
      UserError: the file is missing or damaged, is for a network other than `model`, or has no such state dict; or the
        given preprocessing or class names do not fit the file.
    """
    opened = open_file(path)
    file = opened.path.name
    contents, prefix = select_state_dict(opened.contents, options.state_dict, file)
    fit = find_fit({**contents.tensors, **contents.dropped}.keys(), model, file, prefix)
    manifest = opened.manifest
    if manifest is None:
        manifest = Manifest(file, opened.sha256, model.architecture, model.preprocessing, assumed=True)
    if manifest.model != model.architecture:  # an error even if the tensors fit: preprocessing or padding may differ
        raise UserError(
            f"{file} is for {manifest.model}, not for {model.architecture}; use the model {manifest.model}."
        )
    naming = naming_of(model, manifest.naming) if opened.format.naming else fit.naming
    notes = note_of_state_dict(contents, file) if options.state_dict is None else ()
    tensors = _tensors_of(contents, fit, file)
    manifest = dataclasses.replace(
        manifest,
        metadata=tuple(sorted((name, text) for name, text in contents.metadata.items() if name != METADATA_KEY)),
        format=contents.variant or opened.format.name,
        checked=opened.checked,
        layout=naming.layout,
        naming=naming.name,
        foreign=tuple(name for name in fit.foreign if name in contents.tensors),
        notes=(*manifest.notes, *notes, *note_of_prefix(fit, file)),
        num_classes=num_classes_of(tensors, model),
    )
    return tensors, with_given(manifest, options)


def _tensors_of(contents: Contents, fit: Fit, file: str) -> dict[str, np.ndarray]:
    """Returns the tensors that can belong to the network, by their names in the naming.

    Raises:
      UserError: a tensor of the network is an object of a class, which would run code.
    """
    for in_file in fit.names.values():
        if in_file in contents.dropped:
            raise UserError(
                f"{file} has {in_file!r} as an object of {contents.dropped[in_file]}, which is code; jaxft reads only "
                "plain tensors: save only the state dict, or use safetensors."
            )
    left_over = {name: contents.tensors[name] for name in fit.left_over if name in contents.tensors}
    return left_over | {name: contents.tensors[in_file] for name, in_file in fit.names.items()}
