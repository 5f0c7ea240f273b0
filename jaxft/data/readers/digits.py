"""Reader of the digits of scikit-learn, which need no file."""

import importlib.util
from pathlib import Path

import numpy as np

from jaxft.data.readers.arrays import Arrays
from jaxft.data.readers.location import Location


def read_digits(location: Location) -> Arrays | None:
    """Returns the digits of scikit-learn, or None if another data set is named.

    They are 1,797 scans of 8 x 8 pixels with 17 gray levels (UCI; Alpaydin & Kaynak 1998).
    """
    if location.data != "digits":
        return None
    location.refuse_label()
    package = importlib.util.find_spec("sklearn")  # not imported, because that takes a second
    assert package is not None and package.submodule_search_locations
    table = np.loadtxt(Path(package.submodule_search_locations[0], "datasets/data/digits.csv.gz"), delimiter=",")
    gray = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Arrays(gray, table[:, -1].astype(np.int64), tuple(map(str, range(10))), np.full(len(gray), ""))
