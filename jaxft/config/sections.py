"""Config sections that contain a section for each registry entry, such as `training.regularization.l2_sp`."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jaxft.core.registry import Registry

T = TypeVar("T")


def extended_by(registry: Registry) -> Callable[[type[T]], type[T]]:
    """Returns a decorator that adds a field to a frozen dataclass for each entry of `registry` with a section.

    The name of the field is the name of the entry, and its type is the section of the entry. An instance has the fields
    of the entries that are registered when it is created, so plug-ins must be loaded before configs are read.

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

        setattr(base, "registry", registry)  # noqa: B010  mypy does not know the attributes of `base`
        setattr(base, "base", base)  # noqa: B010
        setattr(base, "__new__", new)  # noqa: B010
        return base

    return decorate


def with_sections(kind: Any) -> Any:
    """Returns the dataclass `kind` with the fields of all entries registered so far.

    If `kind` is not decorated with `extended_by`, returns `kind` itself.
    """
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
    """Returns the sections of registry entries in `config`, by entry name, in the order of the registry.

    If an entry was registered after `config` was created, its section has the default values.
    """
    entries = [entry for entry in config.registry.values() if entry.section is not None]
    return {entry.name: getattr(config, entry.name, None) or entry.section() for entry in entries}
