"""Declaration of config fields: default, help text and bounds."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from jaxft.core.registry import Registry

FROZEN: Literal["frozen"] = "frozen"
MAX_SEED = 2**32 - 1
MAX_TRIALS = 100_000
MAX_SIZE_PX = 4096
MAX_BATCH = 2**20
MAX_UNITS = 5000  # new units, or the rank of an update
# A phase has fewer steps and epochs; both are digits of the numbers of its checkpoints.
MAX_STEPS, MAX_EPOCHS = 10**9, 10**5
LayerRate = float | Literal["frozen"]


def setting(
    default: Any,
    help: str,
    *,
    traced: bool = False,
    parse: Callable[[Any], Any] | None = None,
    registry: Registry | None = None,
    is_path: bool = False,
    **limits: float,
) -> Any:
    """Returns a dataclass field of a config section.

    Args:
      default: the value if a config does not set the field.
      help: one self-contained line, with the unit.
      traced: whether the field is an argument of the compiled program, so that a new value never recompiles.
      parse: converts and checks a value from a config file, instead of the check by type; raises a `UserError` for a
        value that is not allowed.
      registry: a registry; a string must be the default or the name of an entry.
      is_path: whether strings can be paths, in which a leading `~` is the home folder.
      limits: `at_least`, `above`, `at_most`, `below`: bounds of every number in the value.
    """
    metadata = {"help": help, "traced": traced, "parse": parse, "registry": registry, "limits": limits}
    return dataclasses.field(default=default, metadata=metadata | {"is_path": is_path})
