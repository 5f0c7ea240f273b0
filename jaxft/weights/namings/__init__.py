"""Namings: the names of tensors in weight files, one module per family and one port table per naming.

Imports `core` and `models`. A new naming of a known family is a table and a `register_naming` call in the module of the
family. The module of a new family is imported below. The tensor names of a file determine its naming (`matching`).
"""

import jaxft.weights.namings.cifar_resnet
import jaxft.weights.namings.efficientnet
import jaxft.weights.namings.resnet
import jaxft.weights.namings.squeezenet
import jaxft.weights.namings.wide_resnet  # noqa: F401  (each module registers its namings)
from jaxft.weights.namings.matching import Fit, find_fit, find_naming, note_of_prefix
from jaxft.weights.namings.naming import (
    FLAX_NAMING,
    NAMINGS,
    LeafPort,
    Naming,
    find_port,
    naming_of,
    namings_of,
    register_naming,
)
from jaxft.weights.namings.ports import Port, port_batch_norm, port_conv, port_dense

__all__ = [
    "FLAX_NAMING",
    "NAMINGS",
    "Fit",
    "LeafPort",
    "Naming",
    "Port",
    "find_fit",
    "find_naming",
    "find_port",
    "naming_of",
    "namings_of",
    "note_of_prefix",
    "port_batch_norm",
    "port_conv",
    "port_dense",
    "register_naming",
]
