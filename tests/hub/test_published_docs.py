"""docs/published.md lists every file that can be downloaded by name."""

import re

from jaxft.hub.addresses import IMAGES, WEIGHTS


def test_the_page_lists_every_name_and_no_other(root):
    rows = [
        line.split("|")[1] for line in (root / "docs/published.md").read_text().splitlines() if line.startswith("| `")
    ]
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == {*WEIGHTS, *IMAGES}
