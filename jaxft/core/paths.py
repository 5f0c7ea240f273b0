"""Names of parameters, such as `stage1/block2/conv1/kernel`."""

from collections.abc import Mapping
from typing import Any


def flatten(tree: Any) -> dict[str, Any]:
    """Returns the leaves of any pytree by name, `{'stage1/block2/conv1/kernel': leaf}`, in the tree's order."""
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nested dict whose leaves are named as in `flat`: the inverse of `flatten` on nested dicts."""
    from flax.traverse_util import unflatten_dict

    tree: dict[str, Any] = unflatten_dict(dict(flat), sep="/")
    return tree


def layer_of(name: str) -> str:
    """Returns the layer that the leaf `name` belongs to: `stage1/block2/conv1` for `stage1/block2/conv1/kernel`."""
    return name.rpartition("/")[0] or name
