"""`jaxft weights get` and `jaxft data get`: download published files by name."""

from collections.abc import Sequence

from jaxft.core.printing import print_lines
from jaxft.hub.addresses import find_address
from jaxft.hub.data_folders import find_data_file


def run_get(kind: str, names: Sequence[str]) -> int:
    """Downloads the published files `names` of the kind 'weights' or 'data', and prints their licenses first.

    Raises:
      UserError: a name is unknown, or a download fails. Files that are downloaded already are kept.
    """
    from jaxft.recipes.get.run import get

    addresses = {name: find_address(kind, name) for name in names}
    for name, address in addresses.items():
        path = find_data_file(address.file)
        if path is None:
            print_lines(f"{name}: from {address.urls[0]}")
            print_lines(f"license: {address.license}")
            path = get(kind, name)
        print_lines(f"{name}: {path}")
    return 0
