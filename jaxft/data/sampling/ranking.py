"""The random order of all draws: sorted by the sha256 of a seed and a name.

So draws of one seed are nested, and equal in every process and version.
"""

from collections.abc import Sequence

from jaxft.core.digests import sha256_of


def rank(kind: str, seed: int, name: str) -> str:
    """Returns the sort key of `name` among names of the same kind, as 64 hexadecimal digits."""
    return sha256_of(f"{kind}:{seed}:{name}")


def class_order(class_names: Sequence[str], seed: int) -> list[str]:
    """Returns the classes in random order. The order of two classes does not depend on the other classes."""
    return sorted(class_names, key=lambda name: rank("class", seed, name))
