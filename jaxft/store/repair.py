"""Finding the damaged records of a work directory, which the command of the study sets aside."""

import contextlib
from typing import TYPE_CHECKING

from jaxft.core import interrupts
from jaxft.store.sealed import DamagedFile

if TYPE_CHECKING:
    from jaxft.store.records import Store

RECORDS = ("plan.json", "convolution.json", "groups/*.json", "runs/*.json", "failures/*.json")
RECORDS_WITH_ARRAYS = ("trials/*.json", "sources/*.json", "analyses/*.json")


def damaged_files(store: "Store") -> list[str]:
    """Returns the names of the records that do not match their digest, or whose arrays are damaged or missing."""
    damaged = [name for pattern in RECORDS for name in names_of(store, pattern) if not _is_whole(store, name)]
    for pattern in RECORDS_WITH_ARRAYS:
        for name in names_of(store, pattern):
            damaged += _damaged_with_arrays(store, name)
    return damaged


def _is_whole(store: "Store", name: str) -> bool:
    """Returns whether the record in the file `name` matches its digest."""
    try:
        store.read_sealed(name)
    except DamagedFile:
        return False
    return True


def _damaged_with_arrays(store: "Store", name: str) -> list[str]:
    """Returns the record `name` and the name of its arrays, if they exist, unless both are whole."""
    kind, digest = name.removesuffix(".json").split("/")
    with contextlib.suppress(DamagedFile):
        sealed = store.read_sealed(name)
        if sealed is None or store.whole_arrays(kind, digest, sealed[1]) is not None:
            return []
    arrays = f"{kind}/{digest}.npz"
    return [name, arrays] if (store.workdir / arrays).exists() else [name]


def names_of(store: "Store", pattern: str) -> list[str]:
    """Returns the sorted names of the files that match a pattern, without temporary files."""
    interrupts.check()
    paths = [path for path in store.workdir.glob(pattern) if not path.name.startswith(".")]
    return sorted(str(path.relative_to(store.workdir)) for path in paths)
