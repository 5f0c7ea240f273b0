"""Progress on the console: a progress bar on a terminal, plain lines in a log."""

import collections
import statistics
import sys
import time
from types import TracebackType
from typing import Any

from jaxft.core import events
from jaxft.core.events import Event
from jaxft.core.printing import print_lines
from jaxft.core.text import duration, escaped
from jaxft.tracking.lines import describe

LOG_SECONDS = 10.0
RECENT_EPOCHS = 60

# Events whose lines remain on the screen.
PERMANENT_EVENTS = (
    events.StudyPlanned,
    events.StudyFinished,
    events.ExecutorChosen,
    events.OutOfMemory,
    events.SourceTrained,
    events.TrialsFailed,
    events.AnalysisSkipped,
    events.FinetuneStarted,
    events.AlreadyFinished,
    events.CandidateSelected,
    events.Warned,
)


class Progress:
    """A listener that shows the phase, the number of finished trials, and the estimated remaining time.

    The estimate multiplies the remaining epochs by the median time of the last epochs. Use the listener as a context
    manager, which removes the progress bar at the end.

    Args:
      quiet: print nothing.
    """

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self._warnings: set[str] = set()
        self._bar: Any = None
        self._task: Any = None
        self._started = self._last_line = time.monotonic()
        self._done_epochs = self._total_epochs = 0
        self._done_trials = self._total_trials = 0
        # Seconds per epoch of one trial. The median ignores the few epochs that include a compilation.
        self._epoch_seconds: collections.deque[float] = collections.deque(maxlen=RECENT_EPOCHS)
        self._last_epoch = self._started

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, event: Event) -> None:
        """Shows an event on the progress bar, or prints its line."""
        match event:
            case events.StudyStarted():
                self._start(event)
            case events.EpochEnded():
                self._end_epoch(event)
            case events.TrialFinished():
                self._add_trials(1)
            case events.WorkDoneElsewhere():
                self._total_epochs -= event.epochs
                if self._bar is not None:
                    self._bar.update(self._task, total=self._total_epochs)
                self._add_trials(event.kind == "trials")
            case events.Warned() if event.message in self._warnings:
                pass  # a command that runs several studies of the same data warns once
            case _ if isinstance(event, PERMANENT_EVENTS):
                if isinstance(event, events.Warned):
                    self._warnings.add(event.message)
                self._last_epoch = time.monotonic()
                self.print_line(describe(event))
            case _:
                self._update_line(describe(event))

    def print_line(self, line: str) -> None:
        """Prints a line that remains on the screen."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(escaped(line), highlight=False, markup=False)
        else:
            print_lines(line, to_stderr=True)

    def _start(self, event: events.StudyStarted) -> None:
        self._started = self._last_line = self._last_epoch = time.monotonic()
        self._done_epochs, self._total_epochs = 0, event.total_epochs
        self._done_trials, self._total_trials = event.trials_done, event.total_trials
        if self.quiet or not event.total_epochs or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("{task.fields[phase]:<6}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[trials]}"),
            TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[line]}", style="dim", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("", total=event.total_epochs, **self._fields("start", "compiling"))
        self._bar.start()

    def _end_epoch(self, event: events.EpochEnded) -> None:
        num_trials, now = len(event.trials), time.monotonic()
        self._done_epochs += num_trials
        if num_trials:
            self._epoch_seconds.extend([(now - self._last_epoch) / num_trials] * num_trials)
        self._last_epoch = now
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done_epochs, **self._fields(event.phase, describe(event)))
        elif now - self._last_line > LOG_SECONDS:
            self._log(event.phase, describe(event))

    def _add_trials(self, count: int) -> None:
        self._done_trials += count
        if self._bar is not None:
            self._bar.update(self._task, trials=f"{self._done_trials}/{self._total_trials} trials")
        elif self._done_trials == self._total_trials:
            self._log("train", "")

    def _update_line(self, line: str) -> None:
        """Shows the current activity between two epochs."""
        self._last_epoch = time.monotonic()  # so that the next epoch does not include this time
        if self._bar is not None:
            self._bar.update(self._task, line=escaped(line))
        elif time.monotonic() - self._last_line > LOG_SECONDS:
            self._last_line = time.monotonic()
            self.print_line(line)

    def _fields(self, phase: str, line: str) -> dict[str, str]:
        return {
            "phase": phase,
            "line": escaped(line),
            "trials": f"{self._done_trials}/{self._total_trials} trials",
            "left": self._time_left(),
        }

    def _time_left(self) -> str:
        if len(self._epoch_seconds) < 5:
            return ""
        seconds = statistics.median(self._epoch_seconds) * (self._total_epochs - self._done_epochs)
        return f"{duration(seconds)} left"

    def _log(self, phase: str, line: str) -> None:
        self._last_line = time.monotonic()
        trials = f"{phase}: {self._done_trials}/{self._total_trials} trials" if self._total_trials else ""
        self.print_line(", ".join(filter(None, (trials, self._time_left(), line))))
