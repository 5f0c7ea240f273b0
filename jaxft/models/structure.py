"""Leaves, shapes and layers of a network, derived from one trace of its initialization."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxft.core import paths
from jaxft.core.errors import UserError
from jaxft.models.layers import BatchNorm, Head

if TYPE_CHECKING:
    from jaxft.models.network import Network

NORMS = (BatchNorm, nn.BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.InstanceNorm)
DENSE = (Head, nn.Dense)
WITH_KERNEL = (*DENSE, nn.Conv, nn.ConvTranspose, nn.DenseGeneral)


@dataclass(frozen=True)
class Structure:
    """Leaves and layers of a network for images of one size.

    Attributes:
      shapes: the shape of each leaf. A leaf name includes the collection, such as `params/head/kernel`.
      parameters: names of the parameters in the order in which the network uses them, without the collection.
      layers: the class of each submodule by path, such as `stage1/block1/bn1`.
    """

    shapes: Mapping[str, tuple[int, ...]]
    parameters: tuple[str, ...]
    layers: Mapping[str, type]

    @functools.cached_property
    def norms(self) -> tuple[str, ...]:
        """Returns the names of the normalization layers, in the order of the network."""
        return tuple(name for name, kind in self.layers.items() if issubclass(kind, NORMS))

    @functools.cached_property
    def kernels(self) -> frozenset[str]:
        """Returns the names of the kernels of convolutions and dense layers."""
        return frozenset(
            name
            for name in self.parameters
            if name.endswith("/kernel") and issubclass(self.layers[paths.layer_of(name)], WITH_KERNEL)
        )

    @functools.cached_property
    def decayed(self) -> frozenset[str]:
        """Returns the names of the parameters with weight decay.

        These are the parameters of two or more dimensions outside normalization layers.
        """
        norm_prefixes = tuple(f"{norm}/" for norm in self.norms)
        return frozenset(
            name
            for name in self.parameters
            if len(self.shapes[f"params/{name}"]) > 1 and not name.startswith(norm_prefixes)
        )


@functools.cache
def structure_of(model: "Network", size_px: int) -> Structure:
    """Returns the structure of `model` for images of `size_px`, without running the network.

    Raises:
      UserError: the network cannot process images of this size.
    """
    names: list[str] = []
    layers: dict[str, type] = {}

    def collect(tree: Mapping[str, Any], prefix: str) -> None:
        for name, node in tree.items():
            if isinstance(node, Mapping):
                collect(node, f"{prefix}{name}/")
            else:
                names.append(prefix + name)

    def record(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        path = "/".join(context.module.path)
        if path:
            layers.setdefault(path, type(context.module))
        return call(*args, **kwargs)

    def init(images: Any) -> Any:
        with nn.intercept_methods(record):
            variables = model.init(jax.random.key(0), images)
        collect(variables["params"], "")  # here, names are in the order of the network; `eval_shape` sorts them
        return variables

    images = jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32)
    try:
        shapes = jax.eval_shape(init, images)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"{model.architecture} cannot process images of {size_px} px: {str(error).splitlines()[0]}."
        ) from None
    flat = {name: tuple(leaf.shape) for name, leaf in paths.flatten(shapes).items()}
    if any(0 in shape for shape in flat.values()):
        raise UserError(
            f"{model.architecture} cannot process images of {size_px} px: the input of the head would be empty."
        )
    return Structure(flat, tuple(names), layers)


def expected_shapes(model: "Network", size_px: int) -> Mapping[str, tuple[int, ...]]:
    """Returns the shape of each leaf of the variables by name, for images of `size_px`."""
    return structure_of(model, size_px).shapes


def parameter_names(model: "Network", size_px: int) -> tuple[str, ...]:
    """Returns the names of the parameters in the order in which the network uses them."""
    return structure_of(model, size_px).parameters
