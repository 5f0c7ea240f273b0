"""Sections of the config that hold the sections of registered things: `training.regularization.l2_sp`."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jaxft.core.registry import Registry

T = TypeVar("T")


def extended_by(registry: Registry) -> Callable[[type[T]], type[T]]:
    """Returns a decorator of a frozen dataclass: it gets a field for each entry of `registry` that has a section.

    The field has the name of the entry, and the entry's section as its type. The fields are those of the entries that
    are registered when an instance is made, so plug-ins are loaded before configs are read.

    Example:
      >>> @extended_by(REGULARIZERS)
      ... @dataclass(frozen=True)
      ... class RegularizationConfig:
      ...     pass
      >>> RegularizationConfig().l2_sp.strength
      0.0
    """

    def decorate(base: type[T]) -> type[T]:
        def new(cls: type[T], *args: Any, **kwargs: Any) -> T:
            return object.__new__(with_sections(base) if cls is base else cls)

        setattr(base, "registry", registry)  # noqa: B010  mypy knows no attribute of a T
        setattr(base, "base", base)  # noqa: B010
        setattr(base, "__new__", new)  # noqa: B010
        return base

    return decorate


def with_sections(kind: Any) -> Any:
    """Returns the dataclass `kind` with a field for each section registered so far, or `kind` without a registry."""
    registry: Registry | None = getattr(kind, "registry", None)
    if registry is None:
        return kind
    sections = {name: entry.section for name, entry in registry.items() if entry.section is not None}
    return _extended(kind.base, tuple(sections.items()))


@functools.cache
def _extended(base: type[Any], sections: tuple[tuple[str, type], ...]) -> type[Any]:
    fields = [(name, section, dataclasses.field(default_factory=section)) for name, section in sections]
    namespace = {"__module__": base.__module__, "__doc__": base.__doc__}
    return dataclasses.make_dataclass(base.__name__, fields, bases=(base,), frozen=True, namespace=namespace)


def sections_of(config: Any) -> Mapping[str, Any]:
    """Returns the sections that registered things have in `config`, by name, in the order of the registry.

    The section of what was registered after `config` was made has its defaults.
    """
    entries = [entry for entry in config.registry.values() if entry.section is not None]
    return {entry.name: getattr(config, entry.name, None) or entry.section() for entry in entries}
