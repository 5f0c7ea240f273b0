"""Networks by name: what a network declares, shared layers, families, growth.

Imports `core` and `ops`. A family is a file in `families/`.
"""

from jaxft.models.network import Network, Preprocessing, Published, Tap, unit_of
from jaxft.models.registry import create_model, list_families, list_models, published

__all__ = [
    "Network",
    "Preprocessing",
    "Published",
    "Tap",
    "create_model",
    "list_families",
    "list_models",
    "published",
    "unit_of",
]
