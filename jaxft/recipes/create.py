"""Networks by name, with random or with published weights."""

from typing import TYPE_CHECKING, Any, Literal, overload

from jaxft.core.errors import UserError
from jaxft.hub.addresses import TORCHVISION, WEIGHTS, is_name

if TYPE_CHECKING:
    from jaxft.models import Network
    from jaxft.recipes.load import LoadedNetwork


@overload
def create_model(name: str, num_classes: int) -> "Network": ...
@overload
def create_model(
    name: str, num_classes: int | None = None, *, pretrained: Literal[True], key: Any = None
) -> "LoadedNetwork": ...
def create_model(
    name: str, num_classes: int | None = None, *, pretrained: bool = False, key: Any = None
) -> "Network | LoadedNetwork":
    """Returns the network `name`; with `pretrained`, together with published weights.

    Args:
      name: the network, such as 'cifar_resnet20'. `NAME+wider64` widens its last layer by 64 units, `NAME+deeper64`
        adds a layer on top (see `jaxft.models.growth`). With `pretrained`, also a name of published weights, such as
        'timm/resnet18.a1_in1k', 'torchvision/resnet18' or 'resnetsmall14.cifar10'.
      num_classes: number of classes of the head. With `pretrained`, this initializes a new head; if None, the head of
        the weights is used.
      pretrained: whether to load published weights, which jaxft downloads if it does not have them.
      key: key of the new head. If None, `jax.random.key(0)`.

    Returns:
      A Flax module (`jaxft.models.Network`); with `pretrained`, a `LoadedNetwork`, as from `jaxft.load`.

    Raises:
      UserError: there is no network or there are no weights of this name, the network cannot be grown, several weights
        are published for it, or `num_classes` is not positive.
      Failure: a download fails.

    Example:
      >>> model = jaxft.create_model("resnetsmall14", num_classes=10)
      >>> variables = jaxft.load_weights("resnetsmall14.cifar10.safetensors", model)
      >>> logits = model.apply(variables, images)  # [n, 10], for preprocessed images [n, 32, 32, 3]
      >>> network = jaxft.create_model("torchvision/resnet18", num_classes=10, pretrained=True)
    """
    from jaxft import models

    if pretrained:
        return _create_pretrained(name if is_name(name) else _only_weights_of(name), num_classes, key)
    if num_classes is None:
        raise UserError("num_classes is missing; give the number of classes of the head.")
    return models.create_model(name, num_classes)


def _create_pretrained(name: str, num_classes: int | None, key: Any) -> "LoadedNetwork":
    """Returns a network with published weights, and with a new head if `num_classes` is not None."""
    import dataclasses

    from jaxft import models
    from jaxft.recipes.load import LoadedNetwork, load
    from jaxft.weights import find_model
    from jaxft.weights import load as load_variables
    from jaxft.weights.published import find_file

    if num_classes is None:
        return load(name)
    path = find_file(name)
    model = models.create_model(find_model(path), num_classes)
    variables, manifest = load_variables(path, model, head="new", key=key)
    return LoadedNetwork(model, variables, dataclasses.replace(manifest, class_names=()))


def _only_weights_of(model: str) -> str:
    """Returns the name of the published weights of a network.

    Raises:
      UserError: there is no such network, or it does not have exactly one file of published weights.
    """
    from jaxft import models

    models.create_model(model, num_classes=2)
    files = {file.file for file in models.published() if file.model == model}
    names = [name for name, address in WEIGHTS.items() if address.file.rpartition("/")[2] in files]
    names += [f"torchvision/{name}" for name, file in TORCHVISION.items() if file in files]
    if len(names) != 1:
        known = f"it has the published weights {', '.join(names)}; name one" if names else "it has no published weights"
        raise UserError(f"pretrained=True does not determine the weights of {model!r}: {known}.")
    return names[0]
