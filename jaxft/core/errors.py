"""The error classes whose message is one sentence for the user."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake of the user. The message is one sentence; commands print it and exit with code 2."""


class Failure(UserError):
    """A failure that is no mistake of the user, such as a broken connection. Commands exit with code 1."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` for the allowed word most similar to `word`, or '' if no word is similar."""
    near = get_close_matches(word, list(allowed), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
