"""Conversion between the tensors of a weight file and the leaves of a network.

A naming has a port table, which maps leaf names to tensor names and layouts.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxft.core import paths
from jaxft.core.errors import UserError
from jaxft.core.text import some_of
from jaxft.models import Network, create_model
from jaxft.models.structure import expected_shapes
from jaxft.weights.manifest import Manifest
from jaxft.weights.namings import Naming, find_naming, find_port
from jaxft.weights.namings.matching import counter_of

MOST_NAMED = 3  # tensors that an error names, per kind of mismatch
LONGEST = 300  # characters of an error; a longer one names one tensor per kind


def is_head(name: str, model: Network) -> bool:
    """Returns whether the leaf `name`, such as `params/head/kernel`, belongs to the head."""
    return model.in_head(name.partition("/")[2])


def port(
    tensors: Mapping[str, np.ndarray], model: Network, manifest: Manifest, head: Literal["load", "new"]
) -> dict[str, np.ndarray]:
    """Returns the float32 leaves of `model` by name, such as `params/head/kernel`, from the tensors of a file.

    Args:
      tensors: arrays of any shape by tensor name, in any naming of the family.
      model: the network.
      manifest: the manifest of the file. Its foreign tensors are an error; see `Manifest.without_foreign`.
      head: 'load' returns all leaves, 'new' only the leaves of the backbone.

    Raises:
      UserError: tensors are missing, left over or of the wrong shape.
    """
    naming = find_naming(tensors.keys(), model, manifest.file)
    flat: dict[str, np.ndarray] = {}
    used: set[str] = set()
    missing: dict[str, str] = {}  # tensor name -> leaf name
    misshapen: dict[str, str] = {}  # leaf name -> message
    shapes = expected_shapes(model, manifest.preprocessing.size_px)
    for name, shape in sorted(shapes.items(), key=lambda leaf: not leaf[0].startswith("params/")):
        row, tensor_name = find_port(name, model, naming)
        used.add(tensor_name)
        if head == "new" and is_head(name, model):
            continue
        if tensor_name not in tensors:
            missing[tensor_name] = name
            continue
        if not _is_real(tensors[tensor_name]):
            misshapen[name] = f"{tensor_name} has the type {tensors[tensor_name].dtype}; weights are real numbers"
            continue
        try:
            leaf = row.from_file(tensors[tensor_name])
        except ValueError:
            leaf = tensors[tensor_name]
        if leaf.shape != shape:
            gives = "has" if tensor_name == name else f"gives {name}"
            misshapen[name] = f"{tensor_name} {gives} the shape {list(leaf.shape)}, but the model has {list(shape)}"
        else:
            flat[name] = np.ascontiguousarray(leaf, dtype=np.float32)
    for counter in (counter_of(name) for name in shapes if name.startswith("batch_stats/") and name.endswith("/mean")):
        tensor_name = find_port(counter, model, naming).tensor_name
        if tensor_name in tensors:
            used.add(tensor_name)
            if tensors[tensor_name].size != 1 or not _is_real(tensors[tensor_name]):
                misshapen[counter] = f"{tensor_name} has the shape {list(tensors[tensor_name].shape)}; it is one number"
            flat[counter] = tensors[tensor_name]
    left_over = [tensor_name for tensor_name in tensors if tensor_name not in used] + list(manifest.foreign)
    if missing or misshapen or left_over:
        raise _mismatch(manifest.file, model, missing, misshapen, left_over)
    return flat


def _is_real(tensor: np.ndarray) -> bool:
    """Returns whether a tensor has real numbers or booleans, also of the types of ml_dtypes such as bfloat16."""
    import jax

    return any(jax.dtypes.issubdtype(tensor.dtype, kind) for kind in (np.integer, np.floating, np.bool_))


def _mismatch(
    file: str, model: Network, missing: Mapping[str, str], misshapen: Mapping[str, str], left_over: Sequence[str]
) -> UserError:
    """Returns the error for a file that does not fit `model`; suggests head='new' if only the head does not fit."""
    head_leaves = [name for name in (*missing.values(), *misshapen) if is_head(name, model)]
    only_head = len(head_leaves) == len(missing) + len(misshapen) and not left_over
    if only_head and not misshapen and len(missing) == sum(is_head(name, model) for name in model.structure.shapes):
        return UserError(f"{file} has no classifier ({', '.join(missing)}); head='new' initializes one.")
    hint = "; only the head differs: head='new' initializes a new one" if only_head else ""

    def message(most: int) -> str:
        problems = "; ".join(_problems(missing, misshapen, left_over, most))
        return f"{file} does not fit {model.architecture}: {problems}{hint}."

    return UserError(message(MOST_NAMED) if len(message(MOST_NAMED)) <= LONGEST else message(1))


def _problems(
    missing: Mapping[str, str], misshapen: Mapping[str, str], left_over: Sequence[str], most: int
) -> Iterator[str]:
    """Yields one phrase per kind of mismatch, which names at most `most` tensors."""
    if missing:
        first, leaf = next(iter(missing.items()))
        yield f"{first} is missing (for {leaf})" if len(missing) == 1 else _counted(missing, "missing", most)
    if misshapen:
        more = f", and {len(misshapen) - 1} more with a wrong shape" if len(misshapen) > 1 else ""
        yield next(iter(misshapen.values())) + more
    if left_over:
        yield _counted(left_over, "left over", most)


def _counted(names: Iterable[str], how: str, most: int) -> str:
    names = list(names)
    if len(names) == 1:
        return f"{names[0]} is {how}"
    return f"{len(names)} tensors are {how}: {some_of(names, most)}"


def port_with_head(
    tensors: Mapping[str, np.ndarray], model: Network, manifest: Manifest
) -> tuple[Network, dict[str, np.ndarray]]:
    """Returns `model` with the number of classes of the classifier in `tensors`, and its float32 leaves by name.

    If `tensors` has no classifier, returns `model` unchanged, and the leaves of the backbone.

    Args:
      tensors: arrays of any shape by tensor name, in any naming of the family.
      model: the network, with any number of classes.
      manifest: the manifest of the file.

    Raises:
      UserError: tensors are missing, left over or of the wrong shape.
    """
    num_classes = num_classes_of(tensors, model)
    if num_classes is None:  # a classifier of another shape is an error
        return model, port(tensors, model, manifest, "load" if _has_head(tensors, model) else "new")
    model = create_model(model.architecture, num_classes)
    return model, port(tensors, model, manifest, "load")


def num_classes_of(tensors: Mapping[str, np.ndarray], model: Network) -> int | None:
    """Returns the number of classes of the classifier in `tensors` (arrays of any shape).

    Returns None if there is no classifier, or if none of its tensors has the dimensions of a classifier of `model`.
    """
    naming = find_naming(tensors.keys(), model, "the file")
    for name, shape in model.structure.shapes.items():
        if not is_head(name, model):
            continue
        row, tensor_name = find_port(name, model, naming)
        if tensor_name in tensors:
            with contextlib.suppress(ValueError, IndexError):
                leaf = row.from_file(tensors[tensor_name])
                if leaf.ndim == len(shape) and leaf.size:
                    return leaf.shape[-1]
    return None


def _has_head(tensors: Mapping[str, np.ndarray], model: Network) -> bool:
    """Returns whether `tensors` has a tensor of the classifier of `model`."""
    naming = find_naming(tensors.keys(), model, "the file")
    heads = [name for name in model.structure.shapes if is_head(name, model)]
    return any(find_port(name, model, naming).tensor_name in tensors for name in heads)


def to_tensors(model: Network, variables: Mapping[str, Any], naming: Naming | None = None) -> dict[str, np.ndarray]:
    """Returns the `variables` of `model` as tensors by name, with the tensor names and the layout of a weight file.

    The parameters are in the order in which the network uses them.

    Args:
      model: the network.
      variables: nested dict of arrays, such as `{"params": ..., "batch_stats": ...}`.
      naming: the naming of the file. If None, the default naming of the network.
    """
    tensors = {}
    order = {name: i for i, name in enumerate(model.structure.parameters)}
    leaves = paths.flatten(dict(variables)).items()
    has_counters = naming is None or naming.layout != "keras"  # only PyTorch counts the batches of a batch norm
    for name, leaf in sorted(leaves, key=lambda item: order.get(item[0].removeprefix("params/"), len(order))):
        if name.startswith("counters/") and not has_counters:
            continue
        row, tensor_name = find_port(name, model, naming)
        dtype = np.int64 if name.startswith("counters/") else None  # JAX converts counters to 32 bits; files have int64
        tensors[tensor_name] = np.array(row.to_file(np.asarray(leaf, dtype)), order="C")
    return tensors
