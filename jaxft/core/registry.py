"""Registries: the things of one kind that a study can name, built in or from a plug-in."""

import contextlib
import importlib
import threading
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

    The modules that register the built-in entries are imported when the registry is first read, as entry points are: a
    config names an optimizer, and reading it imports no optimizer before that.

    Args:
      kind: what an entry is, as messages name it: 'optimizer'.
      built_in: the modules that register the built-in entries, in this order.

    Example:
      >>> SCHEDULES = Registry("schedule")
      >>> SCHEDULES.register("constant", make_constant, help="the peak rate at every step")
      >>> SCHEDULES["constant"].value
    """

    kind: str
    built_in: tuple[str, ...] = ()
    entries: dict[str, Entry[T]] = field(default_factory=dict, init=False)
    _is_loaded: bool = field(default=False, init=False)

    def register(self, name: str, value: T, *, help: str = "", section: type | None = None) -> T:
        """Adds an entry, after the built-in ones, and returns its value.

        Args:
          name: what a config calls it.
          value: the thing, of the registry's type.
          help: one line that can be understood alone.
          section: the dataclass of its own fields in the config.

        Raises:
          UserError: the name is taken.
        """
        self._load()
        if name in self.entries:
            raise UserError(f"there are two {self.kind}s called {name!r}; a plug-in must give its own another name.")
        self.entries[name] = Entry(name, value, help, section, _loading[-1] if _loading else "")
        return value

    def __getitem__(self, name: str) -> Entry[T]:
        """Returns the entry called `name`.

        Raises:
          UserError: there is none; the message suggests the nearest name.
        """
        if name not in self:
            raise UserError(
                f"there is no {self.kind} {name!r}{did_you_mean(name, self.entries)}; there are "
                f"{', '.join(self.entries) or 'none'}."
            )
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self.entries)

    def __len__(self) -> int:
        self._load()
        return len(self.entries)

    def __contains__(self, name: Any) -> bool:
        self._load()
        return name in self.entries

    def __hash__(self) -> int:
        return id(self)

    def _load(self) -> None:
        """Imports the modules of the built-in entries, once. Their own calls, from within the import, do nothing."""
        with _lock:
            if self._is_loaded:
                return
            self._is_loaded = True
            plugins, _loading[:] = list(_loading), []  # what they register is built in, whoever reads first
            try:
                for module in self.built_in:
                    importlib.import_module(module)
            except BaseException:
                self._is_loaded = False
                raise
            finally:
                _loading[:] = plugins


_lock = threading.RLock()
_loading: list[str] = []  # plug-ins that are being imported, the innermost last


@contextlib.contextmanager
def registering(plugin: str) -> Iterator[None]:
    """Marks what is registered in the context as registered by `plugin`."""
    _loading.append(plugin)
    try:
        yield
    finally:
        _loading.pop()
