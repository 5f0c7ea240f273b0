"""The networks, by name."""

import re

from jaxft.core.errors import UserError, did_you_mean
from jaxft.models.families import cifar_resnet, efficientnet, resnet, squeezenet, wide_resnet
from jaxft.models.growth import grow
from jaxft.models.network import Family, Network, Published

FAMILIES: tuple[Family, ...] = (
    *cifar_resnet.FAMILIES,
    *wide_resnet.FAMILIES,
    *resnet.FAMILIES,
    *squeezenet.FAMILIES,
    *efficientnet.FAMILIES,
)


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
    for family in FAMILIES:
        match = re.fullmatch(family.pattern, name)
        if match is not None:
            try:
                return family.create(*(int(group) for group in match.groups()), num_classes=num_classes)
            except ValueError as error:
                raise UserError(f"there is no model {name!r}: {error}") from None
    raise UserError(f"there is no model {name!r}{did_you_mean(name, list_models())}; `jaxft models` lists them.")


def list_models() -> tuple[str, ...]:
    """Returns the names of the usual networks; families take other depths too."""
    return tuple(name for family in FAMILIES for name in family.names)


def list_families() -> tuple[Family, ...]:
    """Returns every family."""
    return FAMILIES


def published() -> tuple[Published, ...]:
    """Returns the facts of every published weight file that is known."""
    return tuple(file for family in FAMILIES for file in family.published)
