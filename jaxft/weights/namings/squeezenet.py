"""Names of SqueezeNets: torchvision's, and those of github.com/rcmalli/keras-squeezenet."""

from jaxft.models.families.squeezenet import SQUEEZE, SqueezeNet
from jaxft.weights.namings.naming import register_naming
from jaxft.weights.namings.ports import Port, port_conv


def torchvision(model: SqueezeNet) -> tuple[Port, ...]:
    """Returns the port table: `features.3.expand1x1.weight`."""
    rows = [("stem/conv", "features.0"), ("head/conv", "classifier.1")]
    number = 3  # after the stem's convolution, ReLU and pool
    for i in SQUEEZE:
        layers = ("squeeze", "expand1x1", "expand3x3")
        rows += [(f"fire{i}/{layer}", f"features.{number}.{layer}") for layer in layers]
        number += 2 if f"fire{i}" in model.pool_after else 1
    kernels = [port_conv(f"params/{ours}/kernel", f"{foreign}.weight") for ours, foreign in rows]
    return (*kernels, *(Port(f"params/{ours}/bias", f"{foreign}.bias") for ours, foreign in rows))


def keras(model: SqueezeNet) -> tuple[Port, ...]:
    """Returns the port table: `fire2/squeeze1x1/kernel`."""
    rows = [("stem/conv", "conv1"), ("head/conv", "conv10")]
    for i in SQUEEZE:
        rows += [(f"fire{i}/squeeze", f"fire{i}/squeeze1x1")]
        rows += [(f"fire{i}/expand{k}x{k}", f"fire{i}/expand{k}x{k}") for k in (1, 3)]
    return tuple(Port(f"params/{ours}/(?P<leaf>kernel|bias)", foreign + "/{leaf}") for ours, foreign in rows)


register_naming("squeezenet", "torchvision", torchvision)
register_naming("squeezenet", "keras", keras, layout="keras")
