"""Detection of the naming of a weight file from its tensor names."""

from collections.abc import Collection

from jaxft.core.errors import UserError
from jaxft.core.paths import layer_of
from jaxft.models import Network
from jaxft.weights.namings.naming import Naming, find_port, namings_of


def find_naming(names: Collection[str], model: Network, file: str) -> Naming:
    """Returns the naming of `model` that fits the tensor names of a file.

    A naming fits if it has all tensor names, and the file has all names of the naming except those of the head. If no
    naming fits, the result is the naming that shares the most names with the file, so that an error can list missing
    and unused tensors. If no name is shared, it is the default naming of the network.

    Args:
      names: the tensor names.
      model: the network.
      file: name of the file, for the message.

    Raises:
      UserError: two namings fit, and assign the tensors to different leaves.
    """
    tables = {naming: tensor_names(model, naming) for naming in namings_of(model).values()}
    fitting = [naming for naming, table in tables.items() if _fits(set(names), table, model)]
    if any(tables[other] != tables[fitting[0]] for other in fitting[1:]):
        raise UserError(
            f"the tensors of {file} fit several namings of {model.architecture}, which disagree: "
            f"{', '.join(naming.name for naming in fitting)}."
        )
    if fitting:
        return fitting[0]
    return max(tables, key=lambda naming: len(tables[naming].keys() & set(names)))


def tensor_names(model: Network, naming: Naming) -> dict[str, str]:
    """Returns a dict from tensor name to leaf, including the optional counters of batches."""
    tensors = {}
    for leaf in model.structure.shapes:
        tensors[find_port(leaf, model, naming).tensor_name] = leaf
        if leaf.startswith("batch_stats/") and leaf.endswith("/mean"):
            counter = counter_of(leaf)
            tensors[find_port(counter, model, naming).tensor_name] = counter
    return tensors


def counter_of(mean: str) -> str:
    """Returns the name of the batch counter of a batch norm, from the name of its running mean."""
    return f"counters/{layer_of(mean).partition('/')[2]}/num_batches_tracked"


def _fits(names: set[str], table: dict[str, str], model: Network) -> bool:
    needed = {
        tensor_name
        for tensor_name, leaf in table.items()
        if not leaf.startswith("counters/") and not model.in_head(leaf.partition("/")[2])
    }
    return needed <= names <= table.keys()
