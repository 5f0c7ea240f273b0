"""The examples of the documentation run, and the studies in them are ones that can be planned."""

import re

import pytest
from ml_collections import ConfigDict

from jaxft.config import Study, from_dict

SLOW = {  # of whole networks and studies
    "The start, and what trains",
    "Batch norm and regularisers",
    "Features off the shelf, soups and WiSE-FT",
}
PARTS = (
    "The start, and what trains",
    "Rates, schedules, optimisers",
    "Batch norm and regularisers",
    "Features off the shelf, soups and WiSE-FT",
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
