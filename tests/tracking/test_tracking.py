"""Events in JSON, pipes and logs; a listener that fails; the lines on the console."""

import dataclasses
import json
import multiprocessing
import typing

import pytest
from helpers import RecordedEvents

from jaxft.core import events
from jaxft.core.errors import UserError
from jaxft.core.events import Emitter, Event, Warned, from_json
from jaxft.tracking import json_lines
from jaxft.tracking.console import Progress
from jaxft.tracking.json_lines import JsonLines, read_events
from jaxft.tracking.lines import describe
from jaxft.tracking.trackers import TRACKERS, open_trackers

EPOCH = events.EpochEnded("train", ("a", "b"), 3, 5, {"train_loss": (0.25, None), "val_accuracy": (0.5, None)})
VALUES = {int: 3, float: 0.5, str: "a word"}


@dataclasses.dataclass(frozen=True)
class PluginEvent(Event):
    temperature: float


def example(kind):
    """Returns an event of class `kind`, with a value of the right type for each field."""

    def value(hint):
        if hint in VALUES:
            return VALUES[hint]
        if typing.get_origin(hint) is tuple:
            return (value(typing.get_args(hint)[0]),)
        if typing.get_args(hint)[-1] is type(None):
            return None
        return {"name": value(typing.get_args(hint)[1])}

    hints = typing.get_type_hints(kind)
    return kind(**{field.name: value(hints[field.name]) for field in dataclasses.fields(kind)})


def kinds():
    return [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)][1:]


@pytest.mark.parametrize("kind", [*kinds(), PluginEvent], ids=lambda kind: kind.__name__)
def test_every_event_survives_json_and_is_one_line_of_text(kind):
    event = example(kind)
    line = event.to_json()
    assert "\n" not in line and from_json(line) == event
    assert "\n" not in describe(event)


def test_nan_and_infinity_are_null_in_json():
    event = events.TrialFinished("t", "diverged", 1.0, {"val_accuracy": float("nan"), "test_accuracy": float("inf")})
    assert json.loads(event.to_json())["metrics"] == {"val_accuracy": None, "test_accuracy": None}


@pytest.mark.parametrize("line", ["[]", "{}", '{"event": "Warned"}', '{"event": "Unheard", "message": "a"}', "{"])
def test_a_line_that_is_not_an_event_is_an_error(line):
    with pytest.raises(ValueError):
        from_json(line)


def test_a_listener_that_fails_causes_a_warning_and_the_others_continue():
    recorded_events, calls = RecordedEvents(), []

    def failing(event):
        calls.append(event)
        raise OSError("disk full")

    emit = Emitter(failing, recorded_events)
    emit(EPOCH)
    emit(EPOCH)
    assert calls == [EPOCH] and recorded_events.of(events.EpochEnded) == [EPOCH, EPOCH]
    (warning,) = recorded_events.of(Warned)
    assert "failing raised OSError: disk full" in warning.message


def test_a_failure_of_the_only_listener_is_printed_on_standard_error(capsys):
    def failing(event):
        raise OSError("disk full")

    Emitter(failing)(EPOCH)
    assert "warning: " in capsys.readouterr().err


def test_the_line_of_an_epoch_averages_over_trials_that_did_not_diverge():
    assert describe(EPOCH) == "epoch 3/5, loss 0.250, validation accuracy 50.0 %"
    both = dataclasses.replace(EPOCH, metrics={"train_loss": (0.25, 0.75), "val_accuracy": (None, None)})
    assert describe(both) == "epoch 3/5, loss 0.500"


def test_a_log_continues_after_the_incomplete_line_of_a_killed_process(tmp_path):
    path = tmp_path / "events.jsonl"
    for _ in range(2):
        log = JsonLines(path)
        log(EPOCH)
        log(Warned("two\nlines"))
        log.close()
        with path.open("a") as file:
            file.write('{"time": 1.0, "event": "Warn')
    logged = [event for _, event in read_events(path)]
    assert logged == [EPOCH, Warned("two\nlines")] * 2
    assert len(path.read_text().splitlines()) == 6


def _write(path):
    log = JsonLines(path)
    for number in range(500):
        log(events.Warned("x" * number))


@pytest.mark.slow
def test_processes_write_to_one_log_without_mixing_their_lines(tmp_path):
    path = tmp_path / "events.jsonl"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write, args=(path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lengths = sorted(len(event.message) for _, event in read_events(path))
    assert lengths == sorted([*range(500), *range(500)])


def test_progress_events_are_logged_every_ten_seconds_and_at_the_end(tmp_path, monkeypatch):
    now = iter(range(0, 1000, 4))
    monkeypatch.setattr(json_lines.time, "monotonic", lambda: float(next(now)))
    log = JsonLines(tmp_path / "events.jsonl")
    for done in range(1, 8):  # an event every four seconds
        log(events.FeaturesComputed("stem", done, 7))
    logged = [event.done for _, event in read_events(tmp_path / "events.jsonl")]
    assert logged == [1, 4, 7]


def test_a_tracker_is_opened_by_its_name(tmp_path):
    recorded_events = RecordedEvents()
    TRACKERS.register("of_a_test", lambda workdir: recorded_events)
    try:
        emit = Emitter(*open_trackers(["of_a_test"], tmp_path))
        emit(EPOCH)
        emit.close()
    finally:
        del TRACKERS.entries["of_a_test"]
    assert recorded_events == [EPOCH] and [event for _, event in read_events(tmp_path / "events.jsonl")] == [EPOCH]
    with pytest.raises(UserError, match=r"the tracker 'csv' does not exist; allowed: none"):
        open_trackers(["csv"], tmp_path)


def test_the_console_counts_trials_and_logs_when_all_are_done(capsys):
    progress = Progress()
    progress(events.StudyStarted(10, 3, 1))
    progress(events.TrialFinished("a", "done", 1.0, {}))
    progress(events.Working("compiling"))
    assert capsys.readouterr().err == ""
    progress(events.WorkDoneElsewhere("sources", "s", 5))
    progress(events.WorkDoneElsewhere("trials", "b", 5))
    progress(events.TrialsFailed("trials", ("c", "d"), "no memory\nat all"))
    assert capsys.readouterr().err == "train: 3/3 trials\n2 trials failed: no memory\n"
