"""The language of the package and its documentation: no private dialect, American spelling, short messages."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("jaxft", "docs", "configs", "benchmarks", "launch")
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
LONGEST_MESSAGE = 300  # characters, without the values that are filled in

# Phrases that a reader has to decode, or that have a standard term in the field.
DIALECT = (
    r"\bwhat [\w' -]{1,60} says? of\b",
    r"\bsays? of (?!course\b)",
    r"\bsaid (?:of|by|when|before)\b",
    r"\b(?:is|not|are) said\b",
    r"\bsay so\b|\bsays so\b|\bsay so;",
    r"\bthe same of\b",
    r"\bthe same on (?:disk|the)\b",
    r"\bof those that\b",
    r"\bof whose\b|\bof whom\b",
    r"\bof equals\b",
    r"\bof one's own\b|\bone's own\b",
    r"\b(?:is|are|was|were|be) told\b",
    r"\btold (?:to|what)\b",
    r"\bTells whether\b|\btells of\b",
    r"\bhow it goes\b",
    r"\b(?:is|are|still) at work\b|\bat work\b",
    r"\bat hand\b",
    r"\bat any moment\b",
    r"\blooks? at\b(?! the example)",
    r"\blooked (?:at|for)\b",
    r"\blooks after\b",
    r"\bnobody\b|\banybody\b|\bsomebody\b|\bwhoever\b",
    r"\bnone: \w",
    r"\b(?:if|where) that is none\b|\bis none(?: of (?:its|their) kind)?\b",
    r"\b(?:there|here) (?:is|are) none\b",
    r"\bis no (?:number|part|mean|JSON|text|pass|kind|manifest|whole|padding|factor|dict)\b",
    r"\bare no (?:parameters|padding|whole)\b",
    r"\bno [a-z-]+'s\b",
    r"(?<!forward )\bpass(?:es)? over\b",
    r"\b(?:each|every|first|last|after a|after which) pass\b",
    r"\blanes?\b",
    r"\b(?:what|that|which|statistics|leaves|layers|weights|network|units?|head|it|they) rests?\b",
    r"\brested\b|\bresting\b",
    r"\bthe rest\b(?! of the)",
    r"\bfrozen units?\b|\bcopied units?\b|\bunit to unit\b|\bunit downwards\b",
    r"\bcopied ones?\b|\bcopied from the source\b",
    r"\banew\b",
    r"\bgoes on with\b|\bgo on from\b|\bwent on\b|\bgoes on from\b",
    r"\bfor good\b",
    r"\bwhatever (?:it|the|they|its|becomes|images)\b",
    r"\bas it begins\b",
    r"\bso many\b",
    r"\bwhat (?:enters|leaves|lies|follows|becomes|comes|came|became|remained|joins)\b",
    r"\bwhat (?:a|the|each|its|their|trials|people|two) [\w' -]{1,40}(?:needs?|says?|sees?|reads?|keeps?)\b",
    r"\btheirs\b",
    r"\bits own head's?\b",
    r"\bhears?\b|\bheard\b",
    r"\bspeaks? of\b",
    r"\blets? go of\b|\blets? in\b|\blet go\b",
    r"\bgiven up\b|\bgives up\b",
    r"\bin the place of\b|\btakes? the place of\b|\btakes? their place\b|\btakes? its place\b",
    r"\bstands? (?:alone|beside|before|first|left|for biases)\b",
    r"\bwhere (?:arrays|images|it|they|pictures|the weights) lies?\b",
    r"\blies? (?:in|on|at|beside|within|below|above|over)\b",
    r"\bbeside (?:it|them|each|this|that)\b",
    r"\b(?:is|are|was|were) asked for\b|\basked for\b",
    r"\bis asked\b|\bare asked\b",
    r"\bis meant\b|\bare meant\b",
    r"\bthe body\b|\bbody's\b|\bof body\b",
    r"\bthe (?:one )?door\b|\bthe house\b",
    r"\btimes as dear\b|\bworth looking\b",
    r"\bmost to do\b|\benough to do\b|\bmuch to do\b",
    r"\bwho (?:was|had|has|diverged|reads|takes|hears|begins)\b",
    r"\bmatched\b",
    r"\bneighbours?\b|\bgrey\b|\bcentre(?!-crop-1)|\bcolours?\b|\blabelled\b|\bmisspelt\b|\bspelt\b|\blearnt\b|\blicence\b|\bbehaviour\b",
    r"\b\w*(?:normalis|regularis|optimis|initialis|minimis|summaris)(?:e|ed|es|er|ers|ing|ation)\b",
    r"\b(?:worked through|processed) in parts\b|\bin parts\b|\bof its parts\b|\ba part at a time\b",
    r"\b(?:its|their|a|each|the) places? (?:in|on|of)\b|\bplace in the\b|\bplaces of (?:a|an|the)\b",
    r"\bin turn\b",
    r"\bthe same bits\b|\bby a bit\b|\bgives? (?:it |them )?other (?:last )?(?:bits|digits)\b",
    r"\bseen to\b|\bsees to\b",
    r"\btaken off\b|\btaken away\b",
    r"\bnow and then\b|\blong ago\b",
    r"\bbut for (?:the|that|those|what|a|batch)\b",
    r"\bhow (?:far|near) (?:it|this|something|images|the reading) (?:is|are|was)\b|\bhears how far\b",
    r"\brandom changes? of\b|\bchanges? of (?:the )?images?\b|\bchanged at random\b",
    r"\bchanges? of kernels?\b|\bfactors? of (?:a )?changes?\b|\blow-rank changes?\b",
    r"\bfrom (?:the )?first on\b|\bfrom \w+ on\b",
    r"\bdownwards\b",
    r"\bmodel contract\b|\bunder the contract\b",
    r"\bin sight\b",
    r"\bfor want of\b",
    r"\bof no use\b|\bhas no use\b|\bof use\b",
    r"\bthe fewer\b|\bthe faster with\b|\blie within the more\b",
    r"\bcome to that\b|\bwhat comes of it\b|\bwhat became of\b",
    r"\bas wide as\b",
    r"\bone at least\b",
    r"\bthe one that is asked\b",
    r"\bof all that\b|\ball that (?:are|is|it|they|the|any)\b",
    r"\bis of no\b|\bis another\b(?! \w+ing)",
    r"\bso its? \w+ is that of\b|\bthose of (?:the|a|which) (?:first|second|others?)\b",
    r"\bwhich of several\b|\bof several such\b",
    r"\bdecides? nothing\b|\bdecides? anything\b",
    r"\bis there already\b|\bthat is there\b|\bare there already\b",
    r"\bwith (?:as|so) many\b",
    r"\bsaying\b|\bsays in a line\b",
    r"\bmade again\b|\bmade here\b",
    r"\bstudy's first phase\b",
    r"\ban (?:image|epoch|hour) an?\b",
)
# Names that said nothing, or meant several things.
NAMES = (
    *("Changes", "Feed", "Carry", "Drawn", "Readout", "read_out", "Pass", "Starts", "Keeping", "InTurn", "Seen"),
    *("look", "say", "told", "said", "theirs", "resting", "neighbours", "strengths", "torch_file", "stopping"),
    *("copied_units", "tuned_units", "unit_of", "matched"),
    *("place", "places", "Place", "Read", "Reference", "live", "ask", "found", "own", "there", "contract", "starts"),
)


def files():
    """Returns the files with prose for people."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))]
    prose_files = [path for path in paths if path.suffix in (".py", ".md", ".html", ".sh")]
    return prose_files + [ROOT / name for name in DOCUMENTS]


def prose(path):
    """Yields (line number, text) of the prose in a file: of code its comments and strings."""
    text = path.read_text()
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", None)):
            yield from ((token.start[0] + i, line) for i, line in enumerate(token.string.splitlines()))


@pytest.mark.parametrize("pattern", DIALECT)
def test_no_phrase_of_a_private_dialect(pattern):
    phrase = re.compile(pattern, re.MULTILINE)
    if not phrase.search(PROSE):  # faster than a search in each line
        return
    lines = [(path.relative_to(ROOT), i, line) for path, numbered in LINES.items() for i, line in numbered]
    hits = [f"{path}:{i}: {line.strip()}" for path, i, line in lines if phrase.search(line)]
    assert hits == []


def test_no_name_of_a_private_dialect():
    hits = []
    for path in (ROOT / "jaxft").rglob("*.py"):
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type == tokenize.NAME and token.string in NAMES:
                hits.append(f"{path.relative_to(ROOT)}:{token.start[0]}: {token.string}")
    assert hits == []


def test_messages_are_short():
    too_long = []
    for path in (ROOT / "jaxft").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("UserError") and node.args:
                parts = [each.value for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant)]
                length = sum(len(part) for part in parts if isinstance(part, str))
                if length > LONGEST_MESSAGE:
                    too_long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {length} characters")
    assert too_long == []


LINES = {path: list(prose(path)) for path in files()}
PROSE = "\n".join(line for numbered in LINES.values() for _, line in numbered)
