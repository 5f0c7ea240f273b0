"""Progress of long work: one line that moves on a terminal, plain lines in a log."""

import collections
import statistics
import sys
import time
from types import TracebackType
from typing import Any

from jaxft.core.text import duration
from jaxft.core.timing import Clock

LOG_SECONDS = 10.0
RECENT_EPOCHS = 60


class Progress:
    """Counts epochs of trials; tells the phase, the trials done of all, and the time left.

    Use it as a context manager: leaving it takes the moving line away.
    """

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.clock = Clock()
        self.clock.on_compile = lambda: self.note("compiling")
        self._live: Any = None
        self._task: Any = None
        self._started = self._last_line = time.monotonic()
        self._done_epochs = self._total_epochs = 0
        self._done_trials = self._total_trials = 0
        # Seconds of the last epochs, a value a trial: their median is not moved by what is compiled now and then.
        self._recent: collections.deque[float] = collections.deque(maxlen=RECENT_EPOCHS)
        self._last_epoch = self._started

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def begin(self, total_epochs: int, total_trials: int, trials_done: int) -> None:
        """Says how much is to be done."""
        self._started = self._last_line = self._last_epoch = time.monotonic()
        self._done_epochs, self._total_epochs = 0, total_epochs
        self._done_trials, self._total_trials = trials_done, total_trials
        if self.quiet or not total_epochs or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._live = Progress(
            TextColumn("{task.fields[phase]:<6}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[trials]}"),
            TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[line]}", style="dim"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._live.add_task("", total=total_epochs, **self._fields("start", "compiling"))
        self._live.start()

    def epoch(self, phase: str, trials: int, line: str) -> None:
        """Says that `trials` trials ended an epoch of `phase`."""
        self._done_epochs += trials
        now = time.monotonic()
        self._recent.extend([(now - self._last_epoch) / trials] * trials)
        self._last_epoch = now
        if self._live is not None:
            self._live.update(self._task, completed=self._done_epochs, **self._fields(phase, line))
        elif time.monotonic() - self._last_line > LOG_SECONDS:
            self._log(phase, line)

    def trials(self, count: int) -> None:
        """Says that `count` trials are stored."""
        self._done_trials += count
        if self._live is not None:
            self._live.update(self._task, trials=f"{self._done_trials}/{self._total_trials} trials")
        elif self._done_trials == self._total_trials:
            self._log("train", "")

    def elsewhere(self, epochs: int, trials: int) -> None:
        """Says that another process did what was counted here."""
        self._total_epochs -= epochs
        if self._live is not None:
            self._live.update(self._task, total=self._total_epochs)
        self.trials(trials)

    def note(self, line: str) -> None:
        """Says how far something between two epochs is; a warning stays."""
        self._last_epoch = time.monotonic()  # its time is no epoch's
        if line.startswith("warning: "):
            self.say(line)
        elif self._live is not None:
            self._live.update(self._task, line=line)
        elif time.monotonic() - self._last_line > LOG_SECONDS:
            self._last_line = time.monotonic()
            self.say(line)

    def say(self, line: str) -> None:
        """Says a line that stays."""
        if self.quiet:
            return
        if self._live is not None:
            self._live.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def _fields(self, phase: str, line: str) -> dict[str, str]:
        return {
            "phase": phase,
            "line": line,
            "trials": f"{self._done_trials}/{self._total_trials} trials",
            "left": self._left(),
        }

    def _left(self) -> str:
        if len(self._recent) < 5:
            return ""
        seconds = statistics.median(self._recent) * (self._total_epochs - self._done_epochs)
        return f"{duration(seconds)} left"

    def _log(self, phase: str, line: str) -> None:
        self._last_line = time.monotonic()
        parts = [f"{phase}: {self._done_trials}/{self._total_trials} trials", self._left(), line]
        self.say(", ".join(part for part in parts if part))
