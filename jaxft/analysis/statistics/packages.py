"""The optional package statsmodels."""

import importlib.util

from jaxft.core.errors import UserError


def has_statsmodels() -> bool:
    """Returns whether statsmodels is installed."""
    return importlib.util.find_spec("statsmodels") is not None


def require_statsmodels(purpose: str) -> None:
    """Raises UserError if statsmodels is not installed; the message names `purpose`, such as 'a mixed model'."""
    if not has_statsmodels():
        raise UserError(f"{purpose} needs statsmodels; `pip install 'jaxft[statistics]'` installs it.")
