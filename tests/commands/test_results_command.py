"""`jaxft results`: the lines below its table."""

from jaxft.commands.results import failure_lines


class FailedStore:
    """A store that has only the failures of trials."""

    def __init__(self, errors):
        self.errors = errors

    def read(self, kind, trial):
        return {"error": self.errors[trial]}


def test_failed_trials_are_grouped_by_error():
    errors = dict.fromkeys("abcde", "OSError: disk full\nsecond line") | {"f": "ValueError: x"}
    assert failure_lines(FailedStore(errors), errors) == [
        "5 trials failed (a, b, c and 2 more): OSError: disk full",
        "1 trial failed (f): ValueError: x",
    ]
