"""Tensor names of SqueezeNets in torchvision, in the Caffe release, and in github.com/rcmalli/keras-squeezenet."""

from jaxft.models.families.squeezenet import SQUEEZE, SqueezeNet
from jaxft.weights.namings.naming import register_naming
from jaxft.weights.namings.ports import Port, port_conv


def torchvision(model: SqueezeNet) -> tuple[Port, ...]:
    """Returns the port table, with tensor names such as `features.3.expand1x1.weight`."""
    names = [("stem/conv", "features.0"), ("head/conv", "classifier.1")]
    number = 3  # after the convolution, the ReLU and the pool of the stem
    for i in SQUEEZE:
        layers = ("squeeze", "expand1x1", "expand3x3")
        names += [(f"fire{i}/{layer}", f"features.{number}.{layer}") for layer in layers]
        number += 2 if f"fire{i}" in model.pool_after else 1
    kernels = [port_conv(f"params/{layer}/kernel", f"{prefix}.weight") for layer, prefix in names]
    return (*kernels, *(Port(f"params/{layer}/bias", f"{prefix}.bias") for layer, prefix in names))


def keras(model: SqueezeNet) -> tuple[Port, ...]:
    """Returns the port table, with tensor names such as `fire2/squeeze1x1/kernel`."""
    return tuple(Port(f"params/{layer}/(?P<leaf>kernel|bias)", name + "/{leaf}") for layer, name in _caffe_layers())


def caffe(model: SqueezeNet) -> tuple[Port, ...]:
    """Returns the port table, with tensor names such as `fire2/squeeze1x1.0`: the layer, and the index of the blob."""
    kernels = [port_conv(f"params/{layer}/kernel", f"{name}.0") for layer, name in _caffe_layers()]
    return (*kernels, *(Port(f"params/{layer}/bias", f"{name}.1") for layer, name in _caffe_layers()))


def _caffe_layers() -> list[tuple[str, str]]:
    """Returns the layers, with their names in the Caffe release, which Keras shares."""
    names = [("stem/conv", "conv1"), ("head/conv", "conv10")]
    for i in SQUEEZE:
        names += [(f"fire{i}/squeeze", f"fire{i}/squeeze1x1")]
        names += [(f"fire{i}/expand{k}x{k}", f"fire{i}/expand{k}x{k}") for k in (1, 3)]
    return names


register_naming("squeezenet", "torchvision", torchvision)
register_naming("squeezenet", "caffe", caffe)
register_naming("squeezenet", "keras", keras, layout="keras")
