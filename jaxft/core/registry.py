"""Registries: named entries of one kind, such as optimizers, built in or from plug-ins."""

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
    """An entry of a registry.

    Attributes:
      name: the name in configs.
      value: the registered object.
      help: one line of help.
      section: the dataclass of the config fields of the entry; None if it has no fields.
      plugin: the name of the plug-in that registered the entry; empty for built-in entries.
    """

    name: str
    value: T
    help: str = ""
    section: type | None = None
    plugin: str = ""


@dataclass
class Registry(Mapping[str, Entry[T]]):
    """Entries of one kind by name, in the order of registration.

    The registry imports the modules of its built-in entries when it is first used, by a read or by a registration. So
    importing the config does not import JAX.

    Attributes:
      kind: the kind of the entries in messages, such as 'optimizer'.
      built_in: the modules that register the built-in entries, in this order.
      entries: the registered entries by name.

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
        """Adds an entry after the existing ones, and returns its value.

        Args:
          name: the name in configs.
          value: the registered object.
          help: one self-contained line.
          section: the dataclass of the config fields of the entry; if None, it has no fields.

        Raises:
          UserError: the registry has an entry with this name already.
        """
        self._load()
        if name in self.entries:
            raise UserError(f"two {self.kind} entries are called {name!r}; a plug-in must use another name.")
        self.entries[name] = Entry(name, value, help, section, _loading[-1] if _loading else "")
        return value

    def __getitem__(self, name: str) -> Entry[T]:
        """Returns the entry called `name`.

        Raises:
          UserError: the registry has no entry with this name.
        """
        if name not in self:
            raise UserError(
                f"the {self.kind} {name!r} does not exist{did_you_mean(name, self.entries)}; allowed: "
                f"{', '.join(self.entries) or 'none'}."
            )
        return self.entries[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Returns the entry called `name`, or `default` without one; that of `Mapping` expects a `KeyError`."""
        self._load()
        return self.entries.get(name, default)

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
        """Imports the modules of the built-in entries once. During the import, further calls do nothing."""
        with _lock:
            if self._is_loaded:
                return
            self._is_loaded = True
            plugins, _loading[:] = list(_loading), []  # built-in entries belong to no plug-in
            try:
                for module in self.built_in:
                    importlib.import_module(module)
            except BaseException:
                self._is_loaded = False
                raise
            finally:
                _loading[:] = plugins


_lock = threading.RLock()
_loading: list[str] = []  # names of the plug-ins that are being imported; the last one imports now


@contextlib.contextmanager
def registering(plugin: str) -> Iterator[None]:
    """Marks all entries that are registered inside the context as entries of `plugin`."""
    _loading.append(plugin)
    try:
        yield
    finally:
        _loading.pop()
