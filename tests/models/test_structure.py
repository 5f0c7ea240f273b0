"""The structure of a network: head, feature block, normalization layers, and leaves with weight decay."""

import pytest

from jaxft.models import create_model
from jaxft.models.structure import expected_shapes, structure_of

NETWORKS = ("cifar_resnet8", "resnetsmall8", "wrn10_1", "resnet18", "resnet50", "efficientnet_lite0", "squeezenet1_1")
NETWORKS += ("cifar_resnet8+wider4", "wrn10_1+deeper4")


@pytest.mark.parametrize("name", NETWORKS)
def test_norms_are_the_layers_with_a_scale_and_kernels_are_decayed(name):
    """In all built-in families, only norms have a scale, and each kernel has at least two dimensions."""
    model = create_model(name, 2)
    parameters = model.structure.parameters
    assert set(model.norms) == {leaf.rpartition("/")[0] for leaf in parameters if leaf.endswith("/scale")}
    assert model.decayed == model.structure.kernels == {leaf for leaf in parameters if leaf.endswith("/kernel")}
    assert model.in_head("head/bias") and not model.in_head("header/bias")


def test_head_and_feature_block():
    wide = create_model("wrn10_1+wider4", 2)
    assert (wide.head, wide.feature_block, wide.has_linear_head) == ("head", "pool", True)
    squeeze = create_model("squeezenet1_0", 2)
    assert (squeeze.head, squeeze.feature_block, squeeze.has_linear_head) == ("head", "fire9", False)
    assert squeeze.norms == ()


def test_layers_do_not_depend_on_the_image_size():
    model = create_model("cifar_resnet8", 2)
    small, default = structure_of(model, 16), model.structure
    assert (small.norms, small.kernels, small.parameters) == (default.norms, default.kernels, default.parameters)
    assert expected_shapes(model, 16)["params/head/kernel"] == (64, 2)
