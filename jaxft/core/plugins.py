"""Plug-ins: Python modules that register things of their own, named by `config.plugins`.

A plug-in is a module, or an entry point of the group 'jaxft.plugins' that names one. It declares `__version__`, which
is part of the digest of every trial of a study that names the plug-in: raise it when what the plug-in computes changes.
"""

import importlib
from collections.abc import Sequence
from importlib.metadata import entry_points

from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.registry import registering

GROUP = "jaxft.plugins"


def load_plugins(names: Sequence[str]) -> dict[str, str]:
    """Imports plug-ins, each once in a process, and returns the version of each by name.

    Raises:
      UserError: there is no such module, it cannot be imported, or it declares no version.
    """
    points = {point.name: point.value for point in entry_points(group=GROUP)}
    versions = {}
    for name in names:
        module_name = points.get(name, name)
        with registering(name):
            try:
                module = importlib.import_module(module_name)
            except UserError:
                raise
            except ModuleNotFoundError as error:
                if error.name not in (module_name, module_name.partition(".")[0]):
                    raise UserError(
                        f"the plug-in {name!r} needs the module {error.name!r}, which is not installed."
                    ) from error
                raise UserError(
                    f"there is no plug-in {name!r}{did_you_mean(name, points)}; 'plugins' names Python modules that "
                    f"can be imported, or entry points of the group {GROUP!r}."
                ) from error
            except Exception as error:
                reason = " ".join(str(error).split())
                raise UserError(f"the plug-in {name!r} fails: {type(error).__name__}: {reason}.") from error
        version = getattr(module, "__version__", None)
        if not isinstance(version, str) or not version:
            raise UserError(f"the plug-in {name!r} declares no version; give its module __version__ = '1'.")
        versions[name] = version
    return versions
