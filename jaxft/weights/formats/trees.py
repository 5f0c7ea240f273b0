"""Nested dicts of arrays, such as the variables or the `TrainState` of a Flax network."""

from collections.abc import Collection

COLLECTIONS = ("params", "batch_stats", "counters")
WRAPPERS = ("params/", "", "state/", "model/")  # names of a dict around the collections


def leaf_names(names: Collection[str]) -> dict[str, str]:
    """Returns the leaf name, such as `params/head/kernel`, of each array that belongs to a network.

    The collections of the network can be in the tree, in its `params`, in its `state` or in its `model`. A tree without
    collections has only parameters, as in files of Hugging Face. All other arrays, such as the state of the optimizer,
    are left out.

    Args:
      names: names of arrays in nested dicts, such as `params/head/kernel` or `opt_state/0/mu/head/kernel`.
    """
    for wrapper in WRAPPERS:
        if any(name.startswith(f"{wrapper}params/") for name in names):
            prefixes = tuple(f"{wrapper}{collection}/" for collection in COLLECTIONS)
            return {name: name.removeprefix(wrapper) for name in names if name.startswith(prefixes)}
    return {name: f"params/{name}" for name in names}
