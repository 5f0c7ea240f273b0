"""Trackers: listeners that keep the events of a study in its work directory, or send them elsewhere, by name."""

from collections.abc import Callable, Iterable
from pathlib import Path

from jaxft.core.events import Listener
from jaxft.core.registry import Registry
from jaxft.tracking.json_lines import FILE, JsonLines

# A function from the work directory to a listener; if it has a method `close`, that is called at the end.
Tracker = Callable[[Path], Listener]

TRACKERS: Registry[Tracker] = Registry("tracker")
TRACKERS.register("json_lines", lambda workdir: JsonLines(workdir / FILE), help=f"JSON lines in {FILE}")

DEFAULT = ("json_lines",)


def open_trackers(names: Iterable[str], workdir: Path) -> list[Listener]:
    """Returns the listeners of the trackers `names` for a work directory.

    Raises:
      UserError: there is no tracker of a name.
    """
    return [TRACKERS[name].value(workdir) for name in names]
