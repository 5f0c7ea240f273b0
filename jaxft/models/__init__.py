"""Networks by name: the interface of networks, shared layers, initialization, growth, families.

Imports `core` and `ops`. A family is a file in `families/`, listed in `families/__init__.py`. A plug-in registers a
family with `register_family`. `adapt` makes a network from any Flax module.
"""

from jaxft.models.adapter import adapt
from jaxft.models.network import Family, Network, Preprocessing, Published, Tap, block_of
from jaxft.models.registry import create_model, list_families, list_models, published, register_family

__all__ = [
    "Family",
    "Network",
    "Preprocessing",
    "Published",
    "Tap",
    "adapt",
    "block_of",
    "create_model",
    "list_families",
    "list_models",
    "published",
    "register_family",
]
