"""Odd values of every config field: each is accepted or refused in one short sentence, within two seconds of CPU."""

import contextlib
import signal

import pytest

from jaxft.cli import main
from jaxft.config import Images, Source, Study, as_config_file, fields_of, load_config
from jaxft.config.fields import MAX_TRIALS
from jaxft.config.values import set_at
from jaxft.core.errors import UserError
from jaxft.core.events import ignore
from jaxft.study.plan import make_plan

SECONDS, MOST_CHARACTERS = 2.0, 300
RECURSIVE = []
RECURSIVE.append(RECURSIVE)
ODD_VALUES = {
    "huge integer": 10**20,
    "integer above float64": 10**400,
    "integer of 5,000 digits": 10**5000,
    "huge number": 1e18,
    "above float32": 1e39,
    "below float32": 1e-46,
    "almost one": 1 - 1e-12,
    "negative": -1,
    "half": 0.5,
    "billion": 10**9,
    "nan": float("nan"),
    "infinity": float("inf"),
    "true": True,
    "empty": "",
    "long text": "9" * 5000,
    "surrogate": "\ud800",
    "escape": "\x1b[31mred\x07\n",
    "null character": "a\x00b",
    "none": None,
    "list of huge": [10**20, 1e300],
    "list of text": ["\ud800"],
    "nested list": [[]],
    "recursive list": RECURSIVE,
    "dict": {"x": 1},
    "bytes": b"x",
    "complex": 1j,
    "set": {1},
    "object": object(),
    "range": range(10**18),
    "rule that backtracks": [("(.*)*x", 1.0)],
    "rule above float32": [("head/.*", 1e300)],
}
# All fields, each section once: `source.training` has the fields of `training`.
ALL_FIELDS = [
    name
    for name, _, _ in fields_of(Study(source=Source(images=Images())))
    if not name.startswith(("source.training.", "source.images."))
]


@contextlib.contextmanager
def at_most_seconds(seconds):
    """Raises an `AssertionError` in the context after `seconds` of CPU time."""

    def fail(*_):
        raise AssertionError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGVTALRM, fail)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def fields_with(name, value):
    """Returns the fields of a tiny study, with another value of the field `name`."""
    fields = {
        "seeds": 1,
        "source": {"model": "toy"},
        "target": {"size_px": 8, "train_per_class": 5, "val_per_class": 2, "test_per_class": 5},
        "training": {"initialization": {"start": "random"}, "schedule": {"epochs": 1.0}},
    }
    if name == "training.schedule.steps":
        del fields["training"]["schedule"]
    set_at(fields, name, value)
    return fields


def refused(name, value, use):
    """Returns the sentence with which a study is refused; None if it is accepted."""
    with at_most_seconds(SECONDS):
        try:
            use(as_config_file(fields_with(name, value)).study)
        except UserError as error:
            text = str(error)
            assert len(text) <= MOST_CHARACTERS and text.isprintable() and text.endswith("."), text
            return text
    return None


@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES)
def test_every_field_accepts_a_value_or_refuses_it_in_a_sentence(value):
    for name in ALL_FIELDS:
        refused(name, value, use=lambda study: None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_FIELDS)
def test_every_field_is_planned_or_refused_in_a_sentence(name):
    for value in ODD_VALUES.values():
        refused(name, value, use=lambda study: make_plan(study, ignore))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("seeds", 10**20, f"at most {MAX_TRIALS:,} seeds"),
        ("title", "\ud800", "'title' is '\\ud800'"),
        ("training.optimizer.learning_rate", 1e39, "at most 3.402823466e+38"),
        ("training.optimizer.learning_rate", 1e-46, "a number above 0 in float32 precision"),
        ("training.optimizer.beta2", 1 - 1e-12, "below 1 in float32 precision"),
        ("training.schedule.epochs", 1e18, "below 100000"),
        ("training.schedule.steps", 10**10, "below 1000000000"),
        ("target.size_px", 10**9, "at most 4096"),
        ("source.model", "cifar_resnet" + "9" * 20, "largest is 5000"),
        ("source.model", "cifar_resnet8+wider999999", "largest is 5000"),
        ("target.data", "x" * 300, "at most 255 bytes"),
        ("factors", {"training.optimizer.momentum": [0.5, 0.9, 0.5]}, "the level 0.5 twice"),
        ("factors", {"training.layers.rates": [[["a", 1.0]], [["a", 1.0]]]}, "twice"),
        ("factors", {"streams.init": list(range(1000)), "streams.order": list(range(1000))}, "1,000,000 trials"),
        ("factors", {"streams.init": range(10**18)}, "at most 1,000,000 items"),
        ("training.layers.rates", [("(a", 1.0)], "not a regular expression"),
        ("training.layers.rates", [("(?!head).*", 1.0)], "no lookahead"),
    ],
)
def test_the_sentence_names_the_field_and_what_is_right(name, value, reason):
    assert reason in refused(name, value, use=lambda study: make_plan(study, ignore))


def test_steps_that_give_too_many_epochs_are_refused():
    """Batches of 50 images of 50 images: one step is one epoch."""
    fields = fields_with("training.schedule.steps", 10**6)
    fields["training"]["batches"] = {"size": 50}
    with at_most_seconds(SECONDS), pytest.raises(UserError, match=r"1,000,000 epochs of 50 images .* 100,000 epochs"):
        make_plan(as_config_file(fields).study, ignore)


@pytest.mark.parametrize("call", ["sys.exit(0)", "sys.exit()", "raise SystemExit('bye')"])
def test_a_config_that_ends_the_process_is_an_error(call, tmp_path, capsys):
    path = tmp_path / "ends.py"
    path.write_text(f"import sys\n\n\ndef get_config():\n    {call}\n")
    assert main(["study", "--config", str(path), "--workdir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"jaxft: the config file '{path}' ends the process")
    assert not (tmp_path / "out").exists()


def test_overrides_that_python_cannot_parse_are_strings(tmp_path):
    path = tmp_path / "deep.py"
    path.write_text("def get_config():\n    return {}\n")
    with at_most_seconds(SECONDS), pytest.raises(UserError, match=r"'seeds' is '\(+"):
        load_config(str(path), ["seeds=" + "(" * 5000])
    with at_most_seconds(SECONDS), pytest.raises(UserError, match=r"'seeds' is '-+"):
        load_config(str(path), ["seeds=" + "-" * 50_000 + "1"])
