"""Events: what happens in a run, as data. A listener makes lines, logs or curves of them (`jaxft.tracking`)."""

import dataclasses
import functools
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

_TYPES: dict[str, type["Event"]] = {}


@dataclass(frozen=True)
class Event:
    """Something that happened. Its fields are numbers, strings, None, and tuples and dicts of these.

    A subclass of any module, a plug-in's too, goes through JSON by its name.
    """

    def __init_subclass__(cls) -> None:
        if cls.__name__ in _TYPES and _TYPES[cls.__name__].__module__ != cls.__module__:
            raise TypeError(f"there are two events called {cls.__name__!r}; give one another name.")
        _TYPES[cls.__name__] = cls

    def to_dict(self) -> dict[str, Any]:
        """Returns the event's name and its fields, as JSON can hold them."""
        fields = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {"event": type(self).__name__, **fields}

    def to_json(self) -> str:
        """Returns the event as one line of JSON."""
        return json.dumps(self.to_dict())


Listener = Callable[[Event], None]


def from_dict(fields: Mapping[str, Any]) -> Event:
    """Returns the event of `Event.to_dict`; fields that the event does not have are left out.

    Raises:
      ValueError: there is no such event, or a field of it is missing.
    """
    kind = _TYPES.get(fields.get("event", ""))
    if kind is None:
        raise ValueError(f"there is no event {fields.get('event')!r}.")
    names = {field.name for field in dataclasses.fields(kind)}
    try:
        return kind(**{name: _as_tuples(value) for name, value in fields.items() if name in names})
    except TypeError as error:
        raise ValueError(str(error)) from None


def from_json(line: str) -> Event:
    """Returns the event of a line of JSON that `Event.to_json` made. Raises a `ValueError` for any other line."""
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError("an event is a JSON object.")
    return from_dict(fields)


def _plain(value: Any) -> Any:
    """Returns what JSON can hold: None for nan and infinity."""
    if isinstance(value, Mapping):
        return {str(name): _plain(of) for name, of in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(of) for of in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _as_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _as_tuples(of) for name, of in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


# --- listening --------------------------------------------------------------------------------------------------


def print_warnings(event: Event) -> None:
    """Prints warnings on standard error, for work whose progress nobody follows."""
    if isinstance(event, Warned):
        print(f"warning: {event.message}", file=sys.stderr, flush=True)


def ignore(event: Event) -> None:
    """Does nothing."""


class Emitter:
    """A listener that passes each event on to several others.

    A listener that raises an exception is called no more, and costs a warning, which the others hear.
    """

    def __init__(self, *listeners: Listener):
        self.listeners = list(listeners)

    def __call__(self, event: Event) -> None:
        for listener in tuple(self.listeners):
            self._try(listener, functools.partial(listener, event))

    def close(self) -> None:
        """Lets listeners that have a method `close` finish what they write."""
        for listener in tuple(self.listeners):
            self._try(listener, getattr(listener, "close", lambda: None))

    def _try(self, listener: Listener, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self.listeners.remove(listener)
            name = getattr(listener, "__qualname__", type(listener).__qualname__)
            warning = Warned(f"{name} raised {type(error).__name__}: {error}; it is told no more events")
            (self if self.listeners else print_warnings)(warning)


# --- a study ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyPlanned(Event):
    """A study is planned: how many trials of how many settings and seeds, and what it runs on.

    `weights` says which final weights are kept.
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
    """The work of a study starts: epochs of sources and trials to train, all trials, and those that are stored."""

    total_epochs: int
    total_trials: int
    trials_done: int


@dataclass(frozen=True)
class StudyFinished(Event):
    """A study is finished: seconds in all, by activity (`jaxft.core.timing.Clock`), and how many programs compiled."""

    seconds: float
    seconds_by_activity: Mapping[str, float]
    num_compiled: int


@dataclass(frozen=True)
class ExecutorChosen(Event):
    """An executor is chosen for `trials` trials, and why."""

    trials: int
    executor: str
    reason: str


@dataclass(frozen=True)
class OutOfMemory(Event):
    """An executor ran out of memory; the trials go on by `next_executor`, or if it is None by another one."""

    executor: str
    next_executor: str | None


@dataclass(frozen=True)
class EpochEnded(Event):
    """Trials that run side by side ended an epoch and were evaluated.

    Attributes:
      phase: 'source' for a source network, 'train' for trials.
      trials: digests of those that are counted.
      epoch: from 1 to `num_epochs`.
      metrics: by name ('train_loss', 'val_accuracy', ...) a value for each of `trials`; None where it diverged, or
        where there are no such images.
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
    """A trial is stored. `status` is 'done' or 'diverged'; `metrics` are those of its record."""

    trial: str
    status: str
    seconds: float
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class TrialsFailed(Event):
    """Trials, or a source (`kind` 'trials' or 'sources'), failed for one reason; they are tried again next time."""

    kind: str
    trials: tuple[str, ...]
    error: str


@dataclass(frozen=True)
class WorkDoneElsewhere(Event):
    """Another process did epochs and trials that were counted as this process's work."""

    epochs: int
    trials: int


@dataclass(frozen=True)
class AnalysisSkipped(Event):
    """An analysis over all trials is left out, and why."""

    analysis: str
    reason: str


# --- a fine-tuning, which is two studies ------------------------------------------------------------------------


@dataclass(frozen=True)
class FinetuneStarted(Event):
    """A fine-tuning of one network on one data set starts."""

    model: str
    data: str
    num_classes: int


@dataclass(frozen=True)
class CandidateSelected(Event):
    """A candidate of a fine-tuning is selected by its accuracy on the validation images."""

    candidate: str
    val_accuracy: float


# --- what goes on now -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Working(Event):
    """Something begins that takes a while: 'compiling'."""

    activity: str


@dataclass(frozen=True)
class Waiting(Event):
    """This process waits for something: 'another process that decodes cats/'."""

    reason: str


@dataclass(frozen=True)
class Advanced(Event):
    """How far something is: `done` of `total`, what is counted being named by the subclass and `of`."""

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
    """Images of a data set are decoded, with the seconds that are left by the speed so far."""

    activity = "decoding"
    seconds_left: float = 0.0


@dataclass(frozen=True)
class ImagesVerified(Advanced):
    """Decoded images in the cache are compared with their checksums."""

    activity = "verifying images of"


@dataclass(frozen=True)
class ImagesChecked(Advanced):
    """Pictures of a data set are looked at for problems."""

    activity = "checking"


@dataclass(frozen=True)
class FeaturesComputed(Advanced):
    """Features (activations of frozen layers) of images are computed; `of` is the block whose output they are."""

    activity = "features of"


@dataclass(frozen=True)
class Warned(Event):
    """Something that the user should know, and nothing is stopped by."""

    message: str


# --- between a worker process and its parent --------------------------------------------------------------------


@dataclass(frozen=True)
class WorkerDone(Event):
    """A worker process has done its share: seconds by activity, and how many programs it compiled."""

    seconds_by_activity: Mapping[str, float]
    num_compiled: int


@dataclass(frozen=True)
class WorkerFailed(Event):
    """A worker process met a user's mistake: the message of its `UserError`."""

    message: str
