"""Plug-ins: Python modules that register optimizers, regularizers and other entries. `config.plugins` names them.

A plug-in is a module, or an entry point of the group 'jaxft.plugins' that names a module. It declares `__version__`,
which is part of the digest of every trial of a study with this plug-in. A change of the plug-in that changes results
needs a new version.
"""

import importlib
from collections.abc import Sequence
from importlib.metadata import entry_points

from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.registry import registering

GROUP = "jaxft.plugins"


def load_plugins(names: Sequence[str]) -> dict[str, str]:
    """Imports plug-ins, each once per process, and returns their versions by name.

    Args:
      names: names of modules, or of entry points of the group 'jaxft.plugins'.

    Raises:
      UserError: a module does not exist, cannot be imported, or does not declare a version.
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
                    f"the plug-in {name!r} does not exist{did_you_mean(name, points)}; 'plugins' names Python modules "
                    f"that can be imported, or entry points of the group {GROUP!r}."
                ) from error
            except (Exception, SystemExit) as error:
                reason = " ".join(str(error).split())
                raise UserError(f"the plug-in {name!r} fails: {type(error).__name__}: {reason}.") from error
        version = getattr(module, "__version__", None)
        if not isinstance(version, str) or not version:
            raise UserError(f"the plug-in {name!r} does not declare a version; add __version__ = '1' to its module.")
        versions[name] = version
    return versions
