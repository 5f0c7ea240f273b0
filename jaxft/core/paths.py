"""Names of parameters, such as `stage1/block2/conv1/kernel`."""

from collections.abc import Mapping
from typing import Any


def flatten(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a pytree by name, `{'stage1/block2/conv1/kernel': leaf}`, in the order of the tree."""
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def float_leaves(tree: Any) -> dict[str, Any]:
    """Returns the real floating-point arrays of a pytree by name: the leaves that a comparison of weights measures.

    Names are key paths of JAX: `conv1/kernel` in Flax, `resnet/~/conv1/w` in Haiku, `layers/0/weight` in Equinox.
    Other leaves are left out, such as activation functions in Equinox modules, random keys and step counters.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    def is_float_array(leaf: Any) -> bool:
        return isinstance(leaf, jax.Array | np.ndarray | np.generic) and jnp.issubdtype(leaf.dtype, jnp.floating)

    return {name: leaf for name, leaf in flatten(tree).items() if is_float_array(leaf)}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves of `flat` as a nested dict: the inverse of `flatten` for nested dicts."""
    from flax.traverse_util import unflatten_dict

    tree: dict[str, Any] = unflatten_dict(dict(flat), sep="/")
    return tree


def layer_of(name: str) -> str:
    """Returns the name of the layer of a leaf: `stage1/block2/conv1` for `stage1/block2/conv1/kernel`.

    In names without '/', such as `layer1.0.conv1.weight` of PyTorch, '.' separates the layer from the leaf.
    """
    return name.rpartition("/" if "/" in name else ".")[0] or name
