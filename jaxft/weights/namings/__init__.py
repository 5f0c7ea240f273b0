"""Namings: how weight files call a family's tensors, a file a family, a table a naming.

Imports `core` and `models`. A naming of a known family is a table and a `register_naming` line in the family's file;
a new family's file is imported below. The naming of a file is found by the names of its tensors (`matching`).
"""

import jaxft.weights.namings.cifar_resnet
import jaxft.weights.namings.efficientnet
import jaxft.weights.namings.resnet
import jaxft.weights.namings.squeezenet
import jaxft.weights.namings.wide_resnet  # noqa: F401  (each registers its namings)
from jaxft.weights.namings.matching import find_naming
from jaxft.weights.namings.naming import (
    NAMINGS,
    OWN,
    LeafPort,
    Naming,
    find_port,
    naming_of,
    namings_of,
    register_naming,
)
from jaxft.weights.namings.ports import Port, port_batch_norm, port_conv, port_dense

__all__ = [
    "NAMINGS",
    "OWN",
    "LeafPort",
    "Naming",
    "Port",
    "find_naming",
    "find_port",
    "naming_of",
    "namings_of",
    "port_batch_norm",
    "port_conv",
    "port_dense",
    "register_naming",
]
