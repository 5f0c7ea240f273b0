"""The examples of the documentation run, the studies in them can be planned, and what it names is there."""

import importlib
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from jaxft.config import Study, fields_of, from_dict

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
# Folders of the project; a clone also has folders of users, such as `runs`.
FOLDERS = {"jaxft", "benchmarks", "configs", "docs", "launch", "tests"}
FOLDERS |= {path.name for path in (ROOT / "jaxft").iterdir() if path.is_dir()}
STUDY = from_dict(Study, {"source": {"images": {}}})
FIELDS = {".".join(name.split(".")[:n]) for name, _, _ in fields_of(STUDY) for n in range(1, name.count(".") + 2)}
OTHERS = {
    "config.json",
    "data.noun",
    "layers.json",
    "report.html",
    "config.select_over",
    "config.plugins",
}  # files and variables

SLOW = {  # of whole networks and studies
    "Initialization and trainable layers",
    "Batch norm and regularizers",
    "Off-the-shelf features, soups and WiSE-FT",
}
PARTS = (
    "Initialization and trainable layers",
    "Learning rates, schedules and optimizers",
    "Batch norm and regularizers",
    "Off-the-shelf features, soups and WiSE-FT",
)


def headings(text, marks):
    """Returns the headings of one level; a comment in an example is none."""
    return re.findall(rf"^{marks} (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)


def test_the_contents_of_the_factors_are_its_headings(root):
    text = (root / "docs/factors.md").read_text()
    assert tuple(headings(text, "##")) == PARTS
    contents = text.partition("\n## ")[0]
    asked = re.findall(r"\]\(#(.*?)\)", contents)
    there = [heading for marks in ("##", "###") for heading in headings(text, marks)]
    names = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in there}
    assert set(asked) == names and len(asked) == len(names)


@pytest.mark.parametrize("part", [pytest.param(p, marks=[pytest.mark.slow] * (p in SLOW)) for p in PARTS])
@pytest.mark.usefixtures("no_report")
def test_the_examples_of_the_factors_run(part, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (root / "docs/factors.md").read_text().partition(f"\n## {part}\n")[2].partition("\n## ")[0]
    blocks = [block.partition("```")[0] for block in text.split("```python\n")[1:]]
    names = {}
    assert len(blocks) > 5
    for block in blocks:
        names["config"] = ConfigDict()
        exec(compile(block, f"factors.md, {part}", "exec"), names)
        fields = names["config"].to_dict()
        if "factors" in fields:  # is a study, every level of which is checked
            named = any(name.startswith("source.") for factors in fields["factors"] for name in factors)
            usual = {"source": {} if named else {"images": {}}}
            assert from_dict(Study, {**usual, **fields}).trials()


def is_field(name):
    """Tells whether a dotted name is the end of that of a section or field: `optimizer.momentum`."""
    return any(f".{field}".endswith(f".{name}") for field in FIELDS)


def is_code(path):
    """Tells whether a name is a file or folder of the project, or stands in a module: `core/text.duration`."""
    if any(list(base.glob(path)) for base in (ROOT, ROOT / "jaxft")):
        return True
    parts = path.removeprefix("jaxft/").removeprefix("jaxft.").removesuffix("()").replace("/", ".").split(".")
    for i in range(len(parts), -1, -1):
        try:
            found = importlib.import_module(".".join(["jaxft", *parts[:i]]))
        except ModuleNotFoundError:
            continue
        return all((found := getattr(found, part, None)) is not None for part in parts[i:])
    return False


def prose(document):
    """Returns a document without its examples."""
    return re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_names_in_the_documentation_are_there(document):
    names = set(re.findall(r"`([\w.]+[./][\w./*]+(?:\(\))?)`", prose(document))) - OTHERS
    sections = {part for field in FIELDS for part in field.split(".")[:-1]}
    paths = [name for name in names if "/" in name and name.split("/")[0] in FOLDERS]
    dotted = [name for name in names if "/" not in name and name.split(".")[0] in FOLDERS | sections]
    assert [name for name in paths if not is_code(name)] == []
    assert [name for name in dotted if not is_field(name) and not is_code(name)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_links_within_the_documentation_lead_to_files(document):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", prose(document))
    assert [link for link in links if not (ROOT / document).parent.joinpath(link).exists()] == []
