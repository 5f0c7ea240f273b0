"""The committed table of config defaults, `defaults.json`: `python tests/golden/defaults.py` brings it up to date.

A trial's digest leaves out fields that have their default, so a changed default gives old digests a new meaning. The
table is therefore only rewritten for new fields, or together with a new `jaxft.config.SCHEMA_VERSION`.
"""

import json
import sys
from pathlib import Path

from jaxft.config import SCHEMA_VERSION, Execution, Trial, fields_of, to_dict

TABLE = Path(__file__).with_suffix(".json")


def current():
    """Returns the schema version and the default of every field that a trial's digest may cover, by dotted name."""
    values = [*fields_of(Trial()), *fields_of(Execution(), "execution")]
    return {"schema": SCHEMA_VERSION, "defaults": {name: to_dict(value) for name, value, _ in values}}


def changed(old, new):
    """Returns the fields whose default differs between two tables; fields that only one of them has do not count."""
    defaults = old["defaults"]
    return [n for n, value in new["defaults"].items() if n in defaults and repr(value) != repr(defaults[n])]


def problem(old, new):
    """Returns why `new` may not take the place of `old`; None if it may."""
    names = changed(old, new)
    if names and new["schema"] <= old["schema"]:
        return (
            f"the default of {', '.join(names)} changed; raise jaxft.config.SCHEMA_VERSION above {old['schema']}, "
            "so that trials recorded with the old default are not taken for new ones."
        )
    return None


if __name__ == "__main__":
    new = current()
    if TABLE.is_file() and (why := problem(json.loads(TABLE.read_text()), new)):
        sys.exit(why)
    TABLE.write_text(json.dumps(new, indent=1) + "\n")
