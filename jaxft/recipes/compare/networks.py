"""Networks to compare: weight files with the same names of arrays, also of networks that jaxft does not know."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.core.errors import UserError
from jaxft.core.text import plural, some_of

if TYPE_CHECKING:
    import numpy as np

MARKER = "study.json"
STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_variance")  # of batch norm, as ends of tensor names
MOST_NAMED = 3
BY_NAME = "jaxft does not know the network of these files, so it compares tensors by their names."


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a network, as float32 arrays by name.

    Attributes:
      params: the parameters.
      batch_stats: the batch-norm statistics.
    """

    params: "Mapping[str, np.ndarray]"
    batch_stats: "Mapping[str, np.ndarray]"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of every array by name."""
        return {name: array.shape for name, array in (*self.params.items(), *self.batch_stats.items())}

    def only(self, names: "set[str]") -> "Weights":
        """Returns the weights with these names."""
        params, batch_stats = (
            {n: a for n, a in tree.items() if n in names} for tree in (self.params, self.batch_stats)
        )
        return Weights(params, batch_stats)


@dataclass(frozen=True, eq=False)
class Networks:
    """Two or more weight files of one network.

    Attributes:
      paths: the weight files; the first one is the reference.
      labels: a short name for each file.
      model: the name of the network; empty if jaxft does not know it, and compares tensors by their names.
      names: names of the arrays that all files have, with equal shapes.
      notes: sentences about the arrays that are left out.
    """

    paths: tuple[str, ...]
    labels: tuple[str, ...]
    model: str
    names: frozenset[str]
    notes: tuple[str, ...]

    @property
    def filter_axis(self) -> int:
        """Returns the axis of the output channels: the last one in Flax, the first one in tensors of PyTorch.

        Names of tensors of PyTorch have dots, such as `layer1.0.conv1.weight`.
        """
        return -1 if any("/" in name for name in self.names) else 0

    def load(self, index: int) -> Weights:
        """Returns the arrays of file `index` that all files have."""
        return _read(self.paths[index], self.model).only(set(self.names))


def open_networks(locations: Sequence[str | os.PathLike[str]], model: str | None = None) -> Networks:
    """Returns the networks of weight files.

    Args:
      locations: two or more weight files, each as a path, a published name, `package:NAME`, or `DIR:TRIAL` for the
        final weights of a trial: DIR is the work directory of a study, TRIAL the first characters of a digest.
      model: the name of the network. If None, the files determine it; if jaxft does not know it, tensors are compared
        by their names in the files.

    Raises:
      UserError: there are fewer than two files, a file cannot be read, two files contain different networks, or the
        files have no arrays in common.
    """
    if len(locations) < 2:
        raise UserError("a comparison needs two or more weight files.")
    paths = tuple(_located(os.fspath(location)) for location in locations)
    network = model or _common_model(paths)
    shapes = [_read(path, network).shapes for path in paths]
    names = frozenset(name for name in shapes[0] if all(s.get(name) == shapes[0][name] for s in shapes))
    labels = _labels(locations)
    if not names:
        raise UserError(
            f"{labels[0]} and {labels[1]} have no tensors with the same name and shape; compare weight files of one "
            "network."
        )
    notes = [] if network else [BY_NAME]
    return Networks(paths, labels, network, names, (*notes, *_left_out(labels, shapes, names)))


def _located(location: str) -> str:
    """Returns the path of a weight file: `location`, or the final weights of the trial `DIR:TRIAL`."""
    folder, _, prefix = location.rpartition(":")
    if (Path(location) / MARKER).is_file():
        folder, prefix = location, ""
    elif not folder or not (Path(folder) / MARKER).is_file():
        return location
    stored = sorted((Path(folder) / "weights").glob("[!.]*.safetensors"))
    matching = [path for path in stored if path.stem.startswith(prefix)] if prefix else []
    if len(matching) == 1:
        return str(matching[0])
    if not stored:
        raise UserError(
            f"the study in {folder!r} has no stored weights; run it with execution.keep_weights set to 'all'."
        )
    which = (
        f"{plural(len(matching), 'trial')} of {folder!r} begin with {prefix!r}" if prefix else f"{folder!r} is a study"
    )
    example = some_of([f"{folder}:{path.stem}" for path in stored], MOST_NAMED)
    raise UserError(f"{which}; name one of its trials with stored weights, such as {example}.")


def _common_model(paths: Sequence[str]) -> str:
    """Returns the name of the network of all files, or '' if jaxft does not know the network of one of them."""
    from jaxft.weights import find_model

    models = []
    for path in paths:
        try:
            models.append(find_model(path))
        except UserError:
            return ""
    if len(set(models)) > 1:
        other = next(i for i, name in enumerate(models) if name != models[0])
        raise UserError(
            f"{paths[0]} is a {models[0]}, but {paths[other]} is a {models[other]}; compare weights of one network."
        )
    return models[0]


def _read(path: str, model: str) -> Weights:
    """Returns all weights of a file: under the names of jaxft, or if `model` is empty, under those in the file."""
    from jaxft.core import paths
    from jaxft.models.structure import parameter_names
    from jaxft.weights import read_network

    if model:
        network, variables, manifest = read_network(path, model)
        params, batch_stats = (paths.flatten(variables.get(name, {})) for name in ("params", "batch_stats"))
        names = parameter_names(network, manifest.preprocessing.size_px)  # in the order of the forward pass
        return Weights({name: params[name] for name in names if name in params}, batch_stats)
    tensors = dict(_float_tensors(path))
    is_statistic = {name: name.replace("/", ".").rpartition(".")[2] in STATISTICS for name in tensors}
    params, batch_stats = ({n: a for n, a in tensors.items() if is_statistic[n] is kind} for kind in (False, True))
    return Weights(params, batch_stats)


def _float_tensors(path: str) -> "Iterator[tuple[str, Any]]":
    """Yields (name, array) of the floating-point tensors of a file, without a prefix that all names share."""
    import jax.numpy as jnp
    import numpy as np

    from jaxft.weights.opening import open_file
    from jaxft.weights.state_dicts import select_state_dict

    opened = open_file(path)
    contents, _ = select_state_dict(opened.contents, None, opened.path.name)
    prefix = _shared_prefix(list(contents.tensors))
    for name, tensor in contents.tensors.items():
        if jnp.issubdtype(tensor.dtype, jnp.floating):
            yield name[len(prefix) :], np.asarray(tensor, np.float32)


def _shared_prefix(names: Sequence[str]) -> str:
    """Returns the prefix of all names that ends with a dot, such as 'module.'; empty for fewer than two names."""
    first, last = min(names, default="").split("."), max(names, default="").split(".")
    shared = list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first[:-1], last[:-1])))
    return ".".join([word for word, _ in shared] + [""]) if len(names) > 1 else ""


def _labels(locations: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Returns the file names of the locations, or if they are not distinct, the locations."""
    texts = [os.fspath(location) for location in locations]
    names = [Path(text).name for text in texts]
    if len(set(names)) == len(names):
        return tuple(names)
    if len(set(texts)) == len(texts):
        return tuple(texts)
    return tuple(f"{text} ({i})" for i, text in enumerate(texts, 1))


def _left_out(
    labels: Sequence[str], shapes: Sequence[Mapping[str, tuple[int, ...]]], names: frozenset[str]
) -> Iterator[str]:
    """Yields a sentence for the arrays of different shapes, and for those that some files lack."""
    everywhere = [name for name in shapes[0] if name not in names and all(name in s for s in shapes)]
    if everywhere:
        count = plural(len(everywhere), "array")
        yield f"left out: {count} of different shapes ({some_of(everywhere, MOST_NAMED)})."
    for label, of_file in zip(labels, shapes, strict=True):
        extra = [name for name in of_file if not all(name in s for s in shapes)]
        if extra:
            count = plural(len(extra), "array")
            yield f"left out: {count} of {label} that other files lack ({some_of(extra, MOST_NAMED)})."
