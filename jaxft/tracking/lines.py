"""Events in words: one line for each, for people."""

import math
from functools import singledispatch

from jaxft.core import events
from jaxft.core.text import duration, percent, plural


@singledispatch
def describe(event: events.Event) -> str:
    """Returns an event in one line; that of a plug-in, which nothing here knows, is its name and fields."""
    fields = {name: value for name, value in event.to_dict().items() if name != "event"}
    return ", ".join([type(event).__name__, *(f"{name} {value}" for name, value in fields.items())])


@describe.register
def _(event: events.StudyPlanned) -> str:
    return (
        f"{event.title}: {event.trials} trials ({event.settings} settings, {event.seeds} seeds), "
        f"{event.programs} training programs, on {event.device}; {event.weights}"
    )


@describe.register
def _(event: events.StudyFinished) -> str:
    longest = sorted(event.seconds_by_activity.items(), key=lambda item: -item[1])
    programs = f" ({event.num_compiled} programs)"
    parts = [
        f"{activity} {duration(seconds)}{programs if activity == 'compile' else ''}"
        for activity, seconds in longest
        if seconds >= 0.5
    ]
    return f"done in {duration(event.seconds)}: {', '.join(parts)}"


@describe.register
def _(event: events.ExecutorChosen) -> str:
    return f"{event.trials} trials: {event.executor}, as {event.reason}"


@describe.register
def _(event: events.OutOfMemory) -> str:
    then = "it is not used" if event.next_executor is None else f"going on with {event.next_executor}"
    return f"{event.executor} ran out of memory; {then}"


@describe.register
def _(event: events.EpochEnded) -> str:
    """Returns the means over the trials that have not diverged; an empty line if all of them have."""
    loss, accuracy = (_mean(event.metrics.get(name, ())) for name in ("train_loss", "val_accuracy"))
    if loss is None:
        return ""
    on_val = "" if accuracy is None else f", validation accuracy {percent(accuracy)}%"
    return f"epoch {event.epoch}/{event.num_epochs}, loss {loss:.3f}{on_val}"


@describe.register
def _(event: events.SourceTrained) -> str:
    on_val = "" if event.val_accuracy is None else f", validation accuracy {percent(event.val_accuracy)}%"
    return f"source {event.source} trained in {duration(event.seconds)}{on_val}"


@describe.register
def _(event: events.TrialFinished) -> str:
    return f"trial {event.trial} {event.status} in {duration(event.seconds)}"


@describe.register
def _(event: events.TrialsFailed) -> str:
    what = "a source" if event.kind == "sources" else plural(len(event.trials), "trial")
    return f"{what} failed: {event.error.splitlines()[0]}"


@describe.register
def _(event: events.AnalysisSkipped) -> str:
    return f"{event.analysis} left out: {event.reason}"


@describe.register
def _(event: events.FinetuneStarted) -> str:
    return f"{event.model} on {event.data}: {event.num_classes} classes"


@describe.register
def _(event: events.CandidateSelected) -> str:
    return f"selected: {event.candidate}, right on {percent(event.val_accuracy)}% of the validation images"


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
    return f"{event.activity} {event.of}: {event.done} of {event.total} images"


@describe.register
def _(event: events.Warned) -> str:
    return f"warning: {event.message}"


def _mean(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None
