"""Declaring a field of the config: its default, its help, its bounds."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from jaxft.core.registry import Registry

FROZEN: Literal["frozen"] = "frozen"
MAX_SEED = 2**32 - 1
LayerRate = float | Literal["frozen"]


def setting(
    default: Any,
    help: str,
    *,
    traced: bool = False,
    parse: Callable[[Any], Any] | None = None,
    registry: Registry | None = None,
    **limits: float,
) -> Any:
    """Returns a dataclass field with its help text and its bounds.

    Args:
      default: the value where a config leaves the field out.
      help: one line that can be understood alone, with the unit.
      traced: whether it is only a number to the compiled program, so that changing it never recompiles.
      parse: turns a value from a config file into the field's, in place of the check by type. It raises a `UserError`.
      registry: whose entries a text may name, besides the default.
      limits: `at_least`, `above`, `at_most`, `below`, each checked for every number in the value.
    """
    metadata = {"help": help, "traced": traced, "parse": parse, "registry": registry, "limits": limits}
    return dataclasses.field(default=default, metadata=metadata)
