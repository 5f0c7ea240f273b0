"""Reading of files with class names, one per line or as JSON, for weights without class names."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from jaxft.core.errors import UserError
from jaxft.core.reading import TEXT_BYTES, Unreadable, read_file

WORDNET_LINE = re.compile(r"n\d{8}\s+(.+)")  # as in the classes.txt of ImageNet: a WordNet id, then words


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """Returns the class names in a file, in the order of the outputs of the network.

    The file contains one name per line, a JSON list of names, or a JSON object {"0": name, "1": name, ...}. If each
    line begins with a WordNet id, the names are the words after it; where several classes have the same words, the name
    keeps the id.

    Raises:
      UserError: the file cannot be read, has no names or two equal names, or its JSON has another form.
    """
    path = Path(path)
    try:
        text = read_file(path, TEXT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{str(path)!r} is not UTF-8 text; a file of labels has one class name per line.") from None
    except (OSError, Unreadable) as error:
        raise UserError(f"the file of class names {str(path)!r} cannot be read: {error}.") from None
    is_json = path.suffix == ".json" or text.lstrip()[:1] in ("[", "{")
    names = _names_of_json(path, text) if is_json else _names_of_lines(text)
    if not names:
        raise UserError(f"{str(path)!r} contains no class names.")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"{str(path)!r} has the class name {repeated[0]!r} twice; class names must differ.")
    return names


def _names_of_lines(text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    matches = [WORDNET_LINE.fullmatch(line) for line in lines]
    words = [match[1] for match in matches if match]
    if len(words) < len(lines):
        return tuple(lines)
    count_by_words = Counter(words)
    return tuple(word if count_by_words[word] == 1 else line for word, line in zip(words, lines))


def _names_of_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is not valid JSON: {error}.") from None
    if isinstance(value, dict) and value.keys() == set(map(str, range(len(value)))):
        value = [value[str(label)] for label in range(len(value))]
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UserError(
            f"{str(path)!r} must be a JSON list of class names, or an object from each label to its name: "
            '{"0": "cat", "1": "dog"}.'
        )
    return tuple(value)
