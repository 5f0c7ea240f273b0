"""Events as text: one line per event."""

import math
from functools import singledispatch

from jaxft.core import events
from jaxft.core.text import duration, percent, plural


@singledispatch
def describe(event: events.Event) -> str:
    """Returns an event as one line. For an event of a plug-in, the line contains its name and its fields."""
    fields = {name: value for name, value in event.to_dict().items() if name != "event"}
    return ", ".join([type(event).__name__, *(f"{name} {value}" for name, value in fields.items())])


@describe.register
def _(event: events.StudyPlanned) -> str:
    return (
        f"{event.title}: {plural(event.trials, 'trial')} ({plural(event.settings, 'setting')}, "
        f"{plural(event.seeds, 'seed')}), {plural(event.programs, 'training program')}, on {event.device}; "
        f"{event.weights}"
    )


@describe.register
def _(event: events.StudyFinished) -> str:
    longest = sorted(event.seconds_by_activity.items(), key=lambda item: -item[1])
    programs = f" ({plural(event.num_compiled, 'program')})"
    activities = [
        f"{activity} {duration(seconds)}{programs if activity == 'compile' else ''}"
        for activity, seconds in longest
        if seconds >= 0.5
    ]
    return f"done in {duration(event.seconds)}: {', '.join(activities)}"


@describe.register
def _(event: events.ExecutorChosen) -> str:
    return f"{plural(event.trials, 'trial')}: {event.executor} ({event.reason})"


@describe.register
def _(event: events.OutOfMemory) -> str:
    action = "choosing another executor" if event.next_executor is None else f"continuing with {event.next_executor}"
    return f"{event.executor} ran out of memory; {action}"


@describe.register
def _(event: events.EpochEnded) -> str:
    """Returns the mean loss and accuracy of the trials that have not diverged; empty if all have."""
    loss, accuracy = (_mean(event.metrics.get(name, ())) for name in ("train_loss", "val_accuracy"))
    if loss is None:
        return ""
    return f"epoch {event.epoch}/{event.num_epochs}, loss {loss:.3f}{_validation(accuracy)}"


@describe.register
def _(event: events.SourceTrained) -> str:
    return f"source network {event.source} trained in {duration(event.seconds)}{_validation(event.val_accuracy)}"


@describe.register
def _(event: events.TrialFinished) -> str:
    return f"trial {event.trial} {event.status} in {duration(event.seconds)}"


@describe.register
def _(event: events.TrialsFailed) -> str:
    failed = "a source network" if event.kind == "sources" else plural(len(event.trials), "trial")
    return f"{failed} failed: {event.error.splitlines()[0]}"


@describe.register
def _(event: events.AnalysisSkipped) -> str:
    return f"skipped {event.analysis}: {event.reason}"


@describe.register
def _(event: events.FinetuneStarted) -> str:
    line = f"{event.model} on {event.data}: {event.num_classes} classes"
    return f"{line}; folders: {event.folders}" if event.folders else line


@describe.register
def _(event: events.AlreadyFinished) -> str:
    return f"{event.out} contains the complete result of this command, so nothing is computed or written"


@describe.register
def _(event: events.CandidateSelected) -> str:
    return f"selected candidate: {event.candidate}{_validation(event.val_accuracy)}"


@describe.register
def _(event: events.Working) -> str:
    return event.activity


@describe.register
def _(event: events.Waiting) -> str:
    return f"waiting for {event.reason}"


@describe.register
def _(event: events.Advanced) -> str:
    return f"{event.activity} {event.of}: {event.done:,} of {event.total:,}"


@describe.register
def _(event: events.ImagesDecoded) -> str:
    return f"{event.activity} {event.of}: {event.done:,} of {event.total:,}, {duration(event.seconds_left)} left"


@describe.register
def _(event: events.FeaturesComputed) -> str:
    return f"{event.activity} {event.of}: {event.done:,} of {event.total:,} images"


@describe.register
def _(event: events.Warned) -> str:
    return f"warning: {event.message}"


def _validation(accuracy: float | None) -> str:
    return "" if accuracy is None else f", validation accuracy {percent(accuracy)} %"


def _mean(values: tuple[float | None, ...]) -> float | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None
