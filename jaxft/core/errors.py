"""The one kind of error that a user's mistake raises."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake of the user's: its message is one clear sentence, and the command exits with code 2."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` for the allowed word nearest to `word`, or an empty string."""
    near = get_close_matches(word, list(allowed), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
