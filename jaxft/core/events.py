"""Events of a run, as data. Listeners turn them into console lines, logs and curves (`jaxft.tracking`)."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxft.core.printing import print_lines

_TYPES: dict[str, type["Event"]] = {}


@dataclass(frozen=True)
class Event:
    """The base class of events. Fields are numbers, strings, None, or tuples and dicts of these.

    In JSON, the class name identifies the event. So class names must be unique, also among the events of plug-ins.
    """

    def __init_subclass__(cls) -> None:
        if cls.__name__ in _TYPES and _TYPES[cls.__name__].__module__ != cls.__module__:
            raise TypeError(f"two event classes are called {cls.__name__!r}; rename one of them.")
        _TYPES[cls.__name__] = cls

    def to_dict(self) -> dict[str, Any]:
        """Returns the name and the fields of the event as a JSON value."""
        fields = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {"event": type(self).__name__, **fields}

    def to_json(self) -> str:
        """Returns the event as one line of JSON."""
        return json.dumps(self.to_dict())


Listener = Callable[[Event], None]


def from_dict(fields: Mapping[str, Any]) -> Event:
    """Returns the event of a dict from `Event.to_dict`. Unknown fields are ignored.

    Raises:
      ValueError: the event is unknown, or one of its fields is missing.
    """
    kind = _TYPES.get(fields.get("event", ""))
    if kind is None:
        raise ValueError(f"the event {fields.get('event')!r} is unknown.")
    names = {field.name for field in dataclasses.fields(kind)}
    try:
        return kind(**{name: _as_tuples(value) for name, value in fields.items() if name in names})
    except TypeError as error:
        raise ValueError(str(error)) from None


def from_json(line: str) -> Event:
    """Returns the event of a line from `Event.to_json`.

    Raises:
      ValueError: the line is not an event.
    """
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError("an event must be a JSON object.")
    return from_dict(fields)


def _plain(value: Any) -> Any:
    """Returns `value` as a JSON value, with None for nan and infinity."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _as_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _as_tuples(item) for name, item in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


# --- listeners --------------------------------------------------------------------------------------------------


def print_warnings(event: Event) -> None:
    """Prints warnings to standard error and ignores all other events. It is the default listener of library calls."""
    if isinstance(event, Warned):
        print_lines(f"warning: {event.message}", to_stderr=True)


def ignore(event: Event) -> None:
    """Does nothing."""


class Emitter:
    """A listener that forwards each event to several listeners.

    If a listener raises an exception, it gets no more events, and the other listeners get a warning. If no other
    listener is left, the warning is printed.
    """

    def __init__(self, *listeners: Listener):
        self.listeners = list(listeners)

    def __call__(self, event: Event) -> None:
        for listener in tuple(self.listeners):
            self._try(listener, functools.partial(listener, event))

    def close(self) -> None:
        """Calls the method `close` of each listener that has one."""
        for listener in tuple(self.listeners):
            self._try(listener, getattr(listener, "close", lambda: None))

    def _try(self, listener: Listener, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self.listeners.remove(listener)
            name = getattr(listener, "__qualname__", type(listener).__qualname__)
            warning = Warned(f"the listener {name} raised {type(error).__name__}: {error}; it gets no more events")
            (self if self.listeners else print_warnings)(warning)


# --- a study ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyPlanned(Event):
    """A study is planned: its numbers of trials, settings, seeds and programs, and the device that runs it.

    `weights` describes which final weights are kept.
    """

    title: str
    trials: int
    settings: int
    seeds: int
    programs: int
    device: str
    weights: str


@dataclass(frozen=True)
class StudyStarted(Event):
    """A study starts or resumes.

    Attributes:
      total_epochs: total number of epochs of the sources and trials that this run trains.
      total_trials: number of trials.
      trials_done: number of trials that this run does not need to train.
    """

    total_epochs: int
    total_trials: int
    trials_done: int


@dataclass(frozen=True)
class StudyFinished(Event):
    """A study is finished: total seconds, seconds of each activity, and number of compiled programs."""

    seconds: float
    seconds_by_activity: Mapping[str, float]
    num_compiled: int


@dataclass(frozen=True)
class ExecutorChosen(Event):
    """An executor is chosen for a number of trials; `reason` explains the choice."""

    trials: int
    executor: str
    reason: str


@dataclass(frozen=True)
class OutOfMemory(Event):
    """An executor ran out of memory, and `next_executor` continues.

    `next_executor` is None if the memory ran out while executors were timed; this executor is then not chosen.
    """

    executor: str
    next_executor: str | None


@dataclass(frozen=True)
class EpochEnded(Event):
    """Trials that run together finished an epoch and were evaluated.

    Attributes:
      phase: 'source' for a source network, 'train' for trials.
      trials: digests of the trials, without the padding of the chunk.
      epoch: number of the epoch, from 1 to `num_epochs`.
      num_epochs: total number of epochs.
      metrics: for each metric, such as 'train_loss' or 'val_accuracy', one value per trial, in the order of `trials`. A
        value is None if the trial diverged or has no images for this metric.
    """

    phase: str
    trials: tuple[str, ...]
    epoch: int
    num_epochs: int
    metrics: Mapping[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class SourceTrained(Event):
    """A source network is trained and stored. `val_accuracy` is None if it diverged or has no validation images."""

    source: str
    status: str
    seconds: float
    val_accuracy: float | None


@dataclass(frozen=True)
class TrialFinished(Event):
    """A trial is finished and stored. `status` is 'done' or 'diverged'; `metrics` are the metrics of its record."""

    trial: str
    status: str
    seconds: float
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class TrialsFailed(Event):
    """Trials or a source (`kind` 'trials' or 'sources') failed with one error. The next run tries them again."""

    kind: str
    trials: tuple[str, ...]
    error: str


@dataclass(frozen=True)
class WorkDoneElsewhere(Event):
    """Another process finished a trial or a source that this process had counted as its own work.

    `kind` is 'trials' or 'sources', `trial` the digest, and `epochs` the number of its epochs.
    """

    kind: str
    trial: str
    epochs: int


@dataclass(frozen=True)
class AnalysisSkipped(Event):
    """An analysis over all trials is skipped; `reason` explains why."""

    analysis: str
    reason: str


# --- `jaxft finetune`, which runs two studies -------------------------------------------------------------------


@dataclass(frozen=True)
class FinetuneStarted(Event):
    """Fine-tuning of one network on one data set starts.

    `folders` describes which folders are classes, splits and domains; it is '' if images are not in class folders.
    """

    model: str
    data: str
    num_classes: int
    folders: str = ""


@dataclass(frozen=True)
class AlreadyFinished(Event):
    """The folder `out` contains the complete result of the same command."""

    out: str


@dataclass(frozen=True)
class CandidateSelected(Event):
    """A candidate is selected by its validation accuracy."""

    candidate: str
    val_accuracy: float


# --- progress ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Working(Event):
    """A long activity starts, such as 'compiling'."""

    activity: str


@dataclass(frozen=True)
class Waiting(Event):
    """This process waits, for example for 'another process that decodes cats/'."""

    reason: str


@dataclass(frozen=True)
class Advanced(Event):
    """Progress of an activity: `done` of `total` items. `of` names the data set or block that has these items.

    Subclasses name the activity.
    """

    activity: ClassVar[str] = ""
    of: str
    done: int
    total: int


@dataclass(frozen=True)
class ImagesRead(Advanced):
    """Files of a data set are read and hashed."""

    activity = "reading"


@dataclass(frozen=True)
class ImagesDecoded(Advanced):
    """Images of a data set are decoded. `seconds_left` is an estimate from the speed so far."""

    activity = "decoding"
    seconds_left: float = 0.0


@dataclass(frozen=True)
class ImagesVerified(Advanced):
    """Decoded images in the cache are compared with their checksums."""

    activity = "verifying images of"


@dataclass(frozen=True)
class ImagesChecked(Advanced):
    """Images of a data set are checked for problems."""

    activity = "checking"


@dataclass(frozen=True)
class FeaturesComputed(Advanced):
    """Features (activations of frozen layers) of images are computed; `of` names the block that outputs them."""

    activity = "features of"


@dataclass(frozen=True)
class Warned(Event):
    """A warning to the user. The run continues."""

    message: str


# --- between a worker process and its parent --------------------------------------------------------------------


@dataclass(frozen=True)
class WorkerDone(Event):
    """A worker process has finished: seconds of each activity, and number of compiled programs."""

    seconds_by_activity: Mapping[str, float]
    num_compiled: int


@dataclass(frozen=True)
class WorkerFailed(Event):
    """A worker process stopped with a `UserError`."""

    message: str
