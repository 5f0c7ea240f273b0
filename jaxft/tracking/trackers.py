"""Trackers: listeners that keep the events of a study, or send them elsewhere."""

from collections.abc import Callable, Iterable
from pathlib import Path

from jaxft.core.events import Listener
from jaxft.core.registries import TRACKERS
from jaxft.tracking.json_lines import FILE, JsonLines

# A function from the work directory to a listener; if it has a method `close`, that is called at the end.
Tracker = Callable[[Path], Listener]


def open_trackers(names: Iterable[str], workdir: Path) -> list[Listener]:
    """Returns the listeners of a study: the JSON lines in its work directory, and those of the trackers `names`.

    Raises:
      UserError: there is no tracker of a name.
    """
    return [JsonLines(workdir / FILE), *(TRACKERS[name].value(workdir) for name in names)]
