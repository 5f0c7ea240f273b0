"""Networks by name: the network contract, shared layers, initialization, growth, families.

Imports `core` and `ops`. A family is a file in `families/` and a name in its list, or a plug-in's `register_family`;
any Flax module becomes a network by `adapt`.
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
