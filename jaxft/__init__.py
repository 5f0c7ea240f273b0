"""jaxft: fine-tune many times at once, then see what changed.

The names below are imported on first use, so that `import jaxft` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxft.commands.data import check_data
    from jaxft.commands.finetune import finetune
    from jaxft.commands.predict import predict
    from jaxft.commands.results import load_results
    from jaxft.commands.soup import make_soups
    from jaxft.commands.study import run_study
    from jaxft.errors import UserError
    from jaxft.models import create_model, list_models
    from jaxft.weights import load_weights, save_weights

__version__ = "0.1.0"

_HOMES = {
    "UserError": "jaxft.errors",
    "check_data": "jaxft.commands.data",
    "create_model": "jaxft.models",
    "finetune": "jaxft.commands.finetune",
    "list_models": "jaxft.models",
    "load_results": "jaxft.commands.results",
    "load_weights": "jaxft.weights",
    "make_soups": "jaxft.commands.soup",
    "predict": "jaxft.commands.predict",
    "run_study": "jaxft.commands.study",
    "save_weights": "jaxft.weights",
}
_MODULES = ("analysis", "config", "data", "linear", "models", "paths", "pooling", "report", "soup", "store", "weights")
__all__ = [
    "UserError",
    "check_data",
    "create_model",
    "finetune",
    "list_models",
    "load_results",
    "load_weights",
    "make_soups",
    "predict",
    "run_study",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"jaxft.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxft' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
