"""Registry of the families of networks."""

import numbers
import re

from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.registry import Registry
from jaxft.core.text import cut_off, shown
from jaxft.models.families import BUILT_IN
from jaxft.models.growth import grow
from jaxft.models.network import Family, Network, Published

MAX_IN_NAME = 5000  # of a number in the name of a network: depth, width or new units

FAMILIES: Registry[Family] = Registry("family of networks", tuple(f"jaxft.models.families.{name}" for name in BUILT_IN))


def register_family(family: Family) -> None:
    """Registers a family under the pattern of its names.

    Raises:
      UserError: another family already has one of these names.
    """
    for other in (entry.value for entry in FAMILIES.values()):
        shared = [name for name in family.names if re.fullmatch(other.pattern, name)]
        shared += [name for name in other.names if re.fullmatch(family.pattern, name)]
        if shared:
            raise UserError(f"two families of networks use the name {shared[0]!r}; rename one of them.")
    FAMILIES.register(family.pattern, family, help=family.summary)


def list_families() -> tuple[Family, ...]:
    """Returns all families, in the order of registration."""
    return tuple(entry.value for entry in FAMILIES.values())


def create_model(name: str, num_classes: int) -> Network:
    """Returns the network `name`, such as 'cifar_resnet20', with a head for `num_classes`.

    `NAME+wider64` widens the last layer of the network NAME by 64 units; `NAME+deeper64` adds a layer of 64 units on
    top (Wang, Ramanan & Hebert 2017; see `jaxft.models.growth`).

    Raises:
      UserError: no family has a network of this name, the network cannot be grown, or `num_classes` is not positive.

    Example:
      >>> model = jaxft.create_model("resnetsmall14", num_classes=10)
      >>> variables = jaxft.load_weights("resnetsmall14.cifar10.safetensors", model)
      >>> logits = model.apply(variables, images)  # [n, 10], for preprocessed images [n, 32, 32, 3]
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, numbers.Integral) or num_classes < 1:
        raise UserError(f"num_classes is {num_classes!r}; give a whole number, 1 or more.")
    for digits in re.findall(r"[0-9]+", name):
        if len(digits) > 4 or int(digits) > MAX_IN_NAME:
            raise UserError(
                f"there is no model {shown(name)}: its number {cut_off(digits, 20)} is too large; the largest "
                f"is {MAX_IN_NAME}."
            )
    grown = re.fullmatch(r"(.+)\+(wider|deeper)([1-9][0-9]{0,5})", name)
    if grown is not None:
        try:
            return grow(create_model(grown[1], num_classes), grown[2], int(grown[3]))
        except ValueError as error:
            raise UserError(f"{grown[1]} cannot be grown: {error}.") from None
    for family in list_families():
        match = re.fullmatch(family.pattern, name)
        if match is not None:
            args = [int(group) if group and group.isdigit() else group for group in match.groups()]
            try:
                return family.create(*args, num_classes=num_classes)
            except ValueError as error:
                raise UserError(f"there is no model {name!r}: {error}.") from None
    raise UserError(f"there is no model {shown(name)}{did_you_mean(name, list_models())}; `jaxft models` lists them.")


def list_models() -> tuple[str, ...]:
    """Returns the names of the listed networks. Some families also have networks of other depths and widths.

    Example:
      >>> "resnet18" in jaxft.list_models()
      True
    """
    return tuple(name for family in list_families() for name in family.names)


def published() -> tuple[Published, ...]:
    """Returns the facts of all known published weight files."""
    return tuple(file for family in list_families() for file in family.published)
