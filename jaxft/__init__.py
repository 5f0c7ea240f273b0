"""jaxft: fine-tune many times at once, then see what changed.

Public names are imported on first use, so `import jaxft` is fast and does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxft.core.version import VERSION as __version__

if TYPE_CHECKING:
    from jaxft.core.errors import UserError
    from jaxft.models import list_models
    from jaxft.recipes.check_data import check_data
    from jaxft.recipes.compare.run import compare
    from jaxft.recipes.create import create_model
    from jaxft.recipes.finetune.run import finetune
    from jaxft.recipes.load import load
    from jaxft.recipes.predict import predict
    from jaxft.recipes.soup import make_soups
    from jaxft.recipes.study import run_study
    from jaxft.store.tables import load_analyses, load_results
    from jaxft.weights import load_weights, save_weights

_MODULES = {
    "UserError": "jaxft.core.errors",
    "check_data": "jaxft.recipes.check_data",
    "compare": "jaxft.recipes.compare.run",
    "create_model": "jaxft.recipes.create",
    "finetune": "jaxft.recipes.finetune.run",
    "list_models": "jaxft.models",
    "load": "jaxft.recipes.load",
    "load_analyses": "jaxft.store.tables",
    "load_results": "jaxft.store.tables",
    "load_weights": "jaxft.weights",
    "make_soups": "jaxft.recipes.soup",
    "predict": "jaxft.recipes.predict",
    "run_study": "jaxft.recipes.study",
    "save_weights": "jaxft.weights",
}
_FOLDERS = (
    *("analysis", "config", "core", "data", "features", "hub"),
    *("models", "ops", "report", "store", "training", "weights"),
)
__all__ = [
    "UserError",
    "__version__",
    "check_data",
    "compare",
    "create_model",
    "finetune",
    "list_models",
    "load",
    "load_analyses",
    "load_results",
    "load_weights",
    "make_soups",
    "predict",
    "run_study",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return importlib.import_module(f"jaxft.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'jaxft' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
