"""Registries: the things of one kind that a study can name, built in or from a plug-in."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from jaxft.core.errors import UserError, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered thing: its name, the thing, one line of help.

    `section` is the dataclass of its own config fields, if it has any; `plugin` names the plug-in that registered it.
    """

    name: str
    value: T
    help: str = ""
    section: type | None = None
    plugin: str = ""


@dataclass
class Registry(Mapping[str, Entry[T]]):
    """Entries of one kind by name, in the order in which they were registered.

    Args:
      kind: what an entry is, as messages name it: 'optimizer'.

    Example:
      >>> SCHEDULES = Registry("schedule")
      >>> SCHEDULES.register("constant", make_constant, help="the peak rate at every step")
      >>> SCHEDULES["constant"].value
    """

    kind: str
    entries: dict[str, Entry[T]] = field(default_factory=dict)

    def register(self, name: str, value: T, *, help: str = "", section: type | None = None) -> T:
        """Adds an entry and returns its value.

        Raises:
          UserError: the name is taken.
        """
        if name in self.entries:
            raise UserError(f"there are two {self.kind}s called {name!r}; a plug-in must give its own another name.")
        self.entries[name] = Entry(name, value, help, section, _loading[-1] if _loading else "")
        return value

    def __getitem__(self, name: str) -> Entry[T]:
        """Returns the entry called `name`.

        Raises:
          UserError: there is none; the message suggests the nearest name.
        """
        if name not in self.entries:
            raise UserError(
                f"there is no {self.kind} {name!r}{did_you_mean(name, self.entries)}; there are "
                f"{', '.join(self.entries) or 'none'}."
            )
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: Any) -> bool:
        return name in self.entries

    def __hash__(self) -> int:
        return id(self)


_loading: list[str] = []  # plug-ins that are being imported, the innermost last


@contextlib.contextmanager
def registering(plugin: str) -> Iterator[None]:
    """Marks what is registered in the context as registered by `plugin`."""
    _loading.append(plugin)
    try:
        yield
    finally:
        _loading.pop()
