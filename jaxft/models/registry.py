"""The networks, by name."""

import re

from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.registry import Registry
from jaxft.models.families import BUILT_IN
from jaxft.models.growth import grow
from jaxft.models.network import Family, Network, Published

FAMILIES: Registry[Family] = Registry("family of networks", tuple(f"jaxft.models.families.{name}" for name in BUILT_IN))


def register_family(family: Family) -> None:
    """Adds a family, under the pattern of its names.

    Raises:
      UserError: another family has one of its names already.
    """
    for other in (entry.value for entry in FAMILIES.values()):
        both = [name for name in family.names if re.fullmatch(other.pattern, name)]
        both += [name for name in other.names if re.fullmatch(family.pattern, name)]
        if both:
            raise UserError(f"there are two families of networks with the name {both[0]!r}; give one another name.")
    FAMILIES.register(family.pattern, family, help=family.summary)


def list_families() -> tuple[Family, ...]:
    """Returns every family, in the order in which they were registered."""
    return tuple(entry.value for entry in FAMILIES.values())


def create_model(name: str, num_classes: int) -> Network:
    """Returns the network called `name`, such as 'cifar_resnet20', with a head of `num_classes`.

    `NAME+wider64` is that network with 64 new units beside its last layer, `NAME+deeper64` with a layer of them on top.

    Raises a `UserError` for a name that no family has.
    """
    grown = re.fullmatch(r"(.+)\+(wider|deeper)([1-9]\d*)", name)
    if grown is not None:
        try:
            return grow(create_model(grown[1], num_classes), grown[2], int(grown[3]))
        except ValueError as error:
            raise UserError(f"{grown[1]} cannot be grown: {error}.") from None
    for family in list_families():
        match = re.fullmatch(family.pattern, name)
        if match is not None:
            parts = [int(group) if group and group.isdigit() else group for group in match.groups()]
            try:
                return family.create(*parts, num_classes=num_classes)
            except ValueError as error:
                raise UserError(f"there is no model {name!r}: {error}") from None
    raise UserError(f"there is no model {name!r}{did_you_mean(name, list_models())}; `jaxft models` lists them.")


def list_models() -> tuple[str, ...]:
    """Returns the names of the usual networks; families take other depths too."""
    return tuple(name for family in list_families() for name in family.names)


def published() -> tuple[Published, ...]:
    """Returns the facts of every published weight file that is known."""
    return tuple(file for family in list_families() for file in family.published)
