"""A naming: how the tensors of a family's weight files are called, and the registry of namings."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.registry import Registry
from jaxft.models import Network
from jaxft.models.growth import Grown
from jaxft.weights.namings.grown import grown_table
from jaxft.weights.namings.ports import Port


@dataclass(frozen=True)
class Naming:
    """Names and layouts of the tensors in weight files of a family.

    Attributes:
      family: the family (`Network.family`); empty for every network.
      name: who calls them so: 'torchvision', 'timm', 'keras'.
      table: returns the rows of the port table for a network of the family; the first row that matches a leaf counts.
      layout: 'torch' (convolutions OIHW, dense layers [out, in]), 'keras' or 'flax' (HWIO, [in, out]).
    """

    family: str
    name: str
    table: Callable[[Any], tuple[Port, ...]]
    layout: str = "torch"


class LeafPort(NamedTuple):
    """The row of a port table that a leaf belongs to, and the tensor's name in the weight file."""

    row: Port
    foreign: str


NAMINGS: Registry[Naming] = Registry("naming")
OWN = Naming("", "flax", lambda model: (Port(r"(?P<leaf>.+)", "{leaf}"),), layout="flax")


def register_naming(
    family: str, name: str, table: Callable[[Any], tuple[Port, ...]], layout: str = "torch", help: str = ""
) -> None:
    """Adds a naming of a family's weight files, under `family/name`."""
    NAMINGS.register(f"{family}/{name}", Naming(family, name, table, layout), help=help)


def namings_of(model: Network) -> dict[str, Naming]:
    """Returns the namings of a network's family by name, the usual one first, and last its own leaf names ('flax')."""
    namings = {entry.value.name: entry.value for entry in NAMINGS.values() if entry.value.family == model.family}
    if model.naming in namings:
        namings = {model.naming: namings[model.naming]} | namings
    return namings | {OWN.name: OWN}


def naming_of(model: Network, name: str = "") -> Naming:
    """Returns the naming called `name` of a network's family, or its usual one if the name is empty.

    Raises:
      UserError: the family has no such naming.
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
    """Returns where the leaf (with its collection, `params/head/kernel`) lies in weight files.

    Args:
      naming: the naming of the files; None: the network's usual one.

    Raises:
      UserError: the port table has no row for the leaf.
    """
    port = _lookup(model, naming or naming_of(model))(leaf)
    if port is None:
        raise UserError(f"{model.architecture} has no leaf {leaf!r} to port.")
    return port


@functools.lru_cache(maxsize=64)
def _lookup(model: Network, naming: Naming) -> Callable[[str], LeafPort | None]:
    """Returns the function from a leaf to its place, which keeps what it has found."""
    table = naming.table
    rows = grown_table(model, table) if isinstance(model, Grown) and naming is not OWN else table(model)

    @functools.cache
    def port_of(leaf: str) -> LeafPort | None:
        for row in rows:
            foreign = row.foreign_name(leaf)
            if foreign is not None:
                return LeafPort(row, foreign)
        return None

    return port_of
