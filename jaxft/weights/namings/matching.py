"""Finds the naming of a weight file by the names of its tensors."""

from collections.abc import Collection

from jaxft.core.errors import UserError
from jaxft.core.paths import layer_of
from jaxft.models import Network
from jaxft.weights.namings.naming import Naming, find_port, namings_of


def find_naming(names: Collection[str], model: Network, file: str) -> Naming:
    """Returns the naming of `model` that tensors called `names` have.

    It is the one that accounts for all names, and misses none but those of the head. If there is none, it is the one
    that shares most names with the file, so that what is missing and left over can be said; the network's usual
    naming if no name is shared.

    Args:
      file: the file's name, for the message.

    Raises:
      UserError: two namings account for all names, and mean different leaves by them.
    """
    tables = {naming: tensor_names(model, naming) for naming in namings_of(model).values()}
    fitting = [naming for naming, table in tables.items() if _fits(set(names), table, model)]
    if any(tables[other] != tables[fitting[0]] for other in fitting[1:]):
        raise UserError(
            f"the tensors of {file} fit {model.architecture} by several namings: "
            f"{', '.join(naming.name for naming in fitting)}."
        )
    if fitting:
        return fitting[0]
    return max(tables, key=lambda naming: len(tables[naming].keys() & set(names)))  # the first of the best


def tensor_names(model: Network, naming: Naming) -> dict[str, str]:
    """Returns which leaf each tensor of a weight file is, with the counters that some files have."""
    tensors = {}
    for leaf in model.structure.shapes:
        tensors[find_port(leaf, model, naming).foreign] = leaf
        if leaf.startswith("batch_stats/") and leaf.endswith("/mean"):
            counter = counter_of(leaf)
            tensors[find_port(counter, model, naming).foreign] = counter
    return tensors


def counter_of(mean: str) -> str:
    """Returns the leaf that counts the batches of a batch norm, by the leaf of its mean."""
    return f"counters/{layer_of(mean).partition('/')[2]}/num_batches_tracked"


def _fits(names: set[str], table: dict[str, str], model: Network) -> bool:
    needed = {
        foreign
        for foreign, leaf in table.items()
        if not leaf.startswith("counters/") and not model.in_head(leaf.partition("/")[2])
    }
    return needed <= names <= table.keys()
