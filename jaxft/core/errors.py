"""The error classes whose message is one sentence for the user."""

from collections.abc import Iterable
from difflib import get_close_matches

from jaxft.core.text import escaped, shortened

LONGEST = 1000  # characters of a message; a long path has 4,096, and a name in a file can have any number
LONGEST_WORD = 200  # characters of a word that is compared with allowed words


class UserError(ValueError):
    """A mistake of the user. The message is one sentence; commands print it and exit with code 2.

    Names in files can have any length and any characters: the middle of a message of more than 1,000 characters is left
    out, and characters that cannot be printed are escaped.
    """

    def __init__(self, message: str = ""):
        super().__init__(shortened(escaped(message), LONGEST))


class Failure(UserError):
    """A failure that is no mistake of the user, such as a broken connection. Commands exit with code 1."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` for the allowed word most similar to `word`, or '' if no word is similar."""
    near = get_close_matches(word, list(allowed), n=1) if len(word) <= LONGEST_WORD else []
    return f" (did you mean {near[0]!r}?)" if near else ""
