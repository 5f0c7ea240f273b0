"""`Naming`, the tensor names and layouts in weight files of a family, and the registry of namings."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.registry import Registry
from jaxft.models import Network
from jaxft.models.growth import Grown
from jaxft.weights.namings.grown import grown_table
from jaxft.weights.namings.keras import keras
from jaxft.weights.namings.ports import Port


@dataclass(frozen=True)
class Naming:
    """Names and layouts of the tensors in weight files of a family.

    Attributes:
      family: the family (`Network.family`); empty for all networks.
      name: library or author that uses these names: 'torchvision', 'timm', 'keras'.
      table: returns the port table of a network of the family; the first row that matches a leaf applies.
      layout: 'torch' (convolutions OIHW, dense layers [out, in]), or 'keras' or 'flax' (HWIO, [in, out]).
    """

    family: str
    name: str
    table: Callable[[Any], tuple[Port, ...]]
    layout: str = "torch"


class LeafPort(NamedTuple):
    """The row of a port table for a leaf, and the name of the tensor in the weight file."""

    row: Port
    tensor_name: str


NAMINGS: Registry[Naming] = Registry("naming")
FLAX_NAMING = Naming("", "flax", lambda model: (Port(r"(?P<leaf>.+)", "{leaf}"),), layout="flax")
KERAS_NAMING = Naming("", "keras", keras, layout="keras")


def register_naming(
    family: str, name: str, table: Callable[[Any], tuple[Port, ...]], layout: str = "torch", help: str = ""
) -> None:
    """Registers a naming under `family/name`.

    Args:
      family: the family (`Network.family`).
      name: library or author that uses these names.
      table: returns the port table of a network of the family.
      layout: 'torch', 'keras' or 'flax'; see `Naming`.
      help: one line of help.
    """
    NAMINGS.register(f"{family}/{name}", Naming(family, name, table, layout), help=help)


def namings_of(model: Network) -> dict[str, Naming]:
    """Returns the namings of a network by name: the default first, and those of all networks ('flax', 'keras') last.

    A family with its own names in Keras does not have the names in Keras of all networks.
    """
    namings = {entry.value.name: entry.value for entry in NAMINGS.values() if entry.value.family == model.family}
    if model.naming in namings:
        namings = {model.naming: namings[model.naming]} | namings
    return namings | {naming.name: naming for naming in (FLAX_NAMING, KERAS_NAMING) if naming.name not in namings}


def naming_of(model: Network, name: str = "") -> Naming:
    """Returns the naming `name` of a network, or its default naming if `name` is empty.

    Raises:
      UserError: the network has no such naming.
    """
    namings = namings_of(model)
    if not name:
        return next(iter(namings.values()))
    if name not in namings:
        raise UserError(
            f"{model.architecture} has no naming {name!r}{did_you_mean(name, namings)}; it has {', '.join(namings)}."
        )
    return namings[name]


def find_port(leaf: str, model: Network, naming: Naming | None = None) -> LeafPort:
    """Returns the port and the tensor name of a leaf.

    Args:
      leaf: name of the leaf with the collection, such as `params/head/kernel`.
      model: the network.
      naming: the naming of the file. If None, the default naming of the network.

    Raises:
      UserError: the port table has no row for the leaf.
    """
    port = _lookup(model, naming or naming_of(model))(leaf)
    if port is None:
        raise UserError(f"the port table of {model.architecture} has no row for the leaf {leaf!r}.")
    return port


@functools.lru_cache(maxsize=64)
def _lookup(model: Network, naming: Naming) -> Callable[[str], LeafPort | None]:
    """Returns a cached function from the name of a leaf to its port, or to None."""
    table = naming.table
    rows = grown_table(model, table) if isinstance(model, Grown) and naming.family else table(model)

    @functools.cache
    def port_of(leaf: str) -> LeafPort | None:
        for row in rows:
            tensor_name = row.tensor_of(leaf)
            if tensor_name is not None:
                return LeafPort(row, tensor_name)
        return None

    return port_of
