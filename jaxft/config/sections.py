"""Sections of the config that are made of the sections of a registry's entries.

The section of an entry is a frozen dataclass of fields made by `setting`, with a property `active`: whether it does
anything with these values. Built-ins and plug-ins declare theirs where they are registered.
"""

import dataclasses
import functools
from typing import Any

from jaxft.config.fields import setting
from jaxft.core.registry import Registry


def sections_of(registry: Registry[Any], base: type) -> Any:
    """Returns a field of the config with a section for each entry of `registry` that declares one.

    Args:
      registry: the entries, those of plug-ins too once they are loaded.
      base: a frozen dataclass with the fields and methods that the whole has besides.
    """

    def section() -> type:
        return _make_class(base, tuple((e.name, e.section) for e in registry.values() if e.section is not None))

    return dataclasses.field(
        default_factory=lambda: section()(), metadata={"help": "", "traced": False, "limits": {}, "section": section}
    )


@functools.cache
def _make_class(base: type, entries: tuple[tuple[str, type], ...]) -> type:
    fields = [(name, section, setting(section(), (section.__doc__ or "").strip())) for name, section in entries]
    return dataclasses.make_dataclass(base.__name__, fields, bases=(base,), frozen=True)
