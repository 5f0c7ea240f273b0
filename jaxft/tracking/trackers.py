"""Trackers: listeners that store the events of a study, or send them to a service."""

from collections.abc import Callable, Iterable
from pathlib import Path

from jaxft.core.events import Listener
from jaxft.core.registries import TRACKERS
from jaxft.tracking.json_lines import FILE, JsonLines

# Takes the work directory and returns a listener. If the listener has a method `close`, the study calls it at the end.
Tracker = Callable[[Path], Listener]


def open_trackers(names: Iterable[str], workdir: Path) -> list[Listener]:
    """Returns the listeners of a study: the event log in its work directory, and one listener per tracker in `names`.

    Raises:
      UserError: if a name is not registered.
    """
    return [JsonLines(workdir / FILE), *(TRACKERS[name].value(workdir) for name in names)]
