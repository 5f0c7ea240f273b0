"""Leaves of a network from the tensors of a weight file, and back, by the rows of a naming."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
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

MOST_NAMED = 3  # tensors of one kind of mismatch in a message


def is_head(name: str, model: Network) -> bool:
    """Tells whether the leaf `name` (with its collection, `params/head/kernel`) belongs to the head."""
    return model.in_head(name.partition("/")[2])


def port(
    tensors: Mapping[str, np.ndarray], model: Network, manifest: Manifest, head: Literal["load", "new"]
) -> dict[str, np.ndarray]:
    """Returns our leaves by name (`params/head/kernel`) from the tensors of a file, float32.

    Args:
      tensors: by the names of any naming of the network's family.
      head: 'load' takes the head, 'new' leaves it out.

    Raises:
      UserError: tensors are missing, left over or of the wrong shape; the message counts them and names the first.
    """
    naming = find_naming(tensors.keys(), model, manifest.file)
    flat: dict[str, np.ndarray] = {}
    used: set[str] = set()
    missing: dict[str, str] = {}  # leaf by tensor
    misshapen: dict[str, str] = {}  # what is wrong by leaf
    shapes = expected_shapes(model, manifest.preprocessing.size_px)
    for name, shape in sorted(shapes.items(), key=lambda leaf: not leaf[0].startswith("params/")):
        row, foreign = find_port(name, model, naming)
        used.add(foreign)
        if head == "new" and is_head(name, model):
            continue
        if foreign not in tensors:
            missing[foreign] = name
            continue
        try:
            leaf = row.to_ours(tensors[foreign])
        except ValueError:
            leaf = tensors[foreign]
        if leaf.shape != shape:
            misshapen[name] = f"{foreign} gives {name} the shape {list(leaf.shape)}, the model has {list(shape)}"
        else:
            flat[name] = np.ascontiguousarray(leaf, dtype=np.float32)
    for counter in (counter_of(name) for name in shapes if name.startswith("batch_stats/") and name.endswith("/mean")):
        foreign = find_port(counter, model, naming).foreign
        if foreign in tensors:
            used.add(foreign)
            flat[counter] = tensors[foreign]
    left_over = [foreign for foreign in tensors if foreign not in used]
    if missing or misshapen or left_over:
        raise _mismatch(manifest.file, model, missing, misshapen, left_over)
    return flat


def _mismatch(
    file: str, model: Network, missing: Mapping[str, str], misshapen: Mapping[str, str], left_over: Sequence[str]
) -> UserError:
    """Returns the error of a file that does not fit, with a way out if only its head does not."""
    of_head = [name for name in (*missing.values(), *misshapen) if is_head(name, model)]
    only_head = len(of_head) == len(missing) + len(misshapen) and not left_over
    if only_head and not misshapen and len(missing) == sum(is_head(name, model) for name in model.structure.shapes):
        return UserError(f"{file} has no classifier ({', '.join(missing)}); head='new' makes one.")
    parts = []
    if missing:
        first, leaf = next(iter(missing.items()))
        parts.append(f"{first} is missing (for {leaf})" if len(missing) == 1 else _counted(missing, "missing"))
    if misshapen:
        more = f"; and {len(misshapen) - MOST_NAMED} more have another shape" if len(misshapen) > MOST_NAMED else ""
        parts.append("; ".join(list(misshapen.values())[:MOST_NAMED]) + more)
    if left_over:
        parts.append(_counted(left_over, "left over"))
    hint = "; only the head differs: head='new' leaves it out" if only_head else ""
    return UserError(f"{file} does not fit {model.architecture}: {'; '.join(parts)}{hint}.")


def _counted(names: Iterable[str], how: str) -> str:
    names = list(names)
    if len(names) == 1:
        return f"{names[0]} is {how}"
    return f"{len(names)} tensors are {how}: {some_of(names, MOST_NAMED)}"


def fit(tensors: Mapping[str, np.ndarray], model: Network, manifest: Manifest) -> tuple[Network, dict[str, np.ndarray]]:
    """Returns `model` with as many classes as `tensors` are for, and our leaves; no head where they have none."""
    num_classes = num_classes_of(tensors, model)
    if num_classes is None:
        return model, port(tensors, model, manifest, "new")
    model = create_model(model.architecture, num_classes)
    return model, port(tensors, model, manifest, "load")


def num_classes_of(tensors: Mapping[str, np.ndarray], model: Network) -> int | None:
    """Returns how many classes the classifier among `tensors` has; None where there is none."""
    naming = find_naming(tensors.keys(), model, "the file")
    for name in model.structure.shapes:
        if not is_head(name, model):
            continue
        row, foreign = find_port(name, model, naming)
        if foreign in tensors:
            with contextlib.suppress(ValueError, IndexError):
                return row.to_ours(tensors[foreign]).shape[-1]
    return None


def to_foreign(model: Network, variables: Mapping[str, Any], naming: Naming | None = None) -> dict[str, np.ndarray]:
    """Returns the tensors of nested `variables` by their names and in their layout in weight files.

    Args:
      naming: the naming of the files; None: the network's usual one.
    """
    tensors = {}
    for name, leaf in paths.flatten(dict(variables)).items():
        row, foreign = find_port(name, model, naming)
        dtype = np.int64 if name.startswith("counters/") else None  # JAX makes them 32 bits wide
        tensors[foreign] = np.array(row.to_foreign(np.asarray(leaf, dtype)), order="C")
    return tensors
