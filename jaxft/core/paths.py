"""Names of parameters, such as `stage1/block2/conv1/kernel`."""

from collections.abc import Mapping
from typing import Any


def flatten(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a pytree by name, `{'stage1/block2/conv1/kernel': leaf}`, in the order of the tree."""
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves of `flat` as a nested dict: the inverse of `flatten` for nested dicts."""
    from flax.traverse_util import unflatten_dict

    tree: dict[str, Any] = unflatten_dict(dict(flat), sep="/")
    return tree


def layer_of(name: str) -> str:
    """Returns the name of the layer of a leaf: `stage1/block2/conv1` for `stage1/block2/conv1/kernel`."""
    return name.rpartition("/")[0] or name
