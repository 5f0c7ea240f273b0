"""The order of everything that is drawn: by the sha256 of a seed and a name.

So draws of one seed are nested, and the same in every process and version."""

from collections.abc import Sequence

from jaxft.core.digests import sha256_of


def rank(kind: str, seed: int, name: str) -> str:
    """Returns the place of `name` among others of its kind, as text that sorts."""
    return sha256_of(f"{kind}:{seed}:{name}")


def class_order(class_names: Sequence[str], seed: int) -> list[str]:
    """Returns the classes in the order of a seed; it is the same whichever others there are."""
    return sorted(class_names, key=lambda name: rank("class", seed, name))
