"""Config sections that contain a section for each registry entry, such as `training.regularization.l2_sp`."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from jaxft.core.registry import Entry, Registry

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

        def reduce(config: T) -> tuple[Any, ...]:  # pickle cannot find the class with sections by its name
            return _rebuilt, (base, {field.name: getattr(config, field.name) for field in dataclasses.fields(config)})  # type: ignore[arg-type]

        setattr(base, "registry", registry)  # noqa: B010  mypy does not know the attributes of `base`
        setattr(base, "base", base)  # noqa: B010
        setattr(base, "__new__", new)  # noqa: B010
        setattr(base, "__reduce__", reduce)  # noqa: B010
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


def _rebuilt(base: type[T], values: Mapping[str, Any]) -> T:
    return base(**values)


def plugins_used(config: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yields (dotted name, plug-in) of each field that names an entry of a plug-in, and of each section of one.

    Sections with default values are left out: they have no effect.
    """
    for field in dataclasses.fields(config):
        value, dotted = getattr(config, field.name), f"{where}.{field.name}" if where else field.name
        entries: list[Entry[Any]] = []
        if field.metadata.get("registry") is not None and value != field.default:
            names = value if isinstance(value, tuple) else (value,)
            entries = [field.metadata["registry"][name] for name in names]
        elif dataclasses.is_dataclass(value):
            entry = getattr(config, "registry", {}).get(field.name)
            if entry is not None and entry.plugin and value != entry.section():
                entries = [entry]
            yield from plugins_used(value, dotted)
        yield from ((dotted, entry.plugin) for entry in entries if entry.plugin)


def sections_of(config: Any) -> Mapping[str, Any]:
    """Returns the sections of registry entries in `config`, by entry name, in the order of the registry.

    If an entry was registered after `config` was created, its section has the default values.
    """
    entries = [entry for entry in config.registry.values() if entry.section is not None]
    return {entry.name: getattr(config, entry.name, None) or entry.section() for entry in entries}
