"""`jaxft models`: descriptions of networks agree with numbers computed by hand and with published numbers."""

import pytest

import jaxft
from jaxft.cli import main
from jaxft.models.description import describe_model


def test_blocks_have_the_parameters_and_macs_computed_by_hand():
    blocks = {block.name: block for block in describe_model("cifar_resnet8").blocks}
    assert list(blocks) == ["stem", "stage1/block1", "stage2/block1", "stage3/block1", "pool", "head"]
    # 32 x 32 positions of 3 x 3 kernels from 3 to 16 channels; a scale and a shift a channel.
    assert (blocks["stem"].output, blocks["stem"].num_params) == ((32, 32, 16), 3 * 3 * 3 * 16 + 2 * 16)
    assert blocks["stem"].num_macs == 32 * 32 * 3 * 3 * 3 * 16
    assert blocks["stage1/block1"].num_macs == 2 * 32 * 32 * 3 * 3 * 16 * 16
    # A stride halves the sides before the first convolution's output.
    assert blocks["stage2/block1"].output == (16, 16, 32)
    assert blocks["stage2/block1"].num_macs == 16 * 16 * 3 * 3 * (16 * 32 + 32 * 32)
    assert (blocks["head"].output, blocks["head"].num_params, blocks["head"].num_macs) == ((10,), 64 * 10 + 10, 64 * 10)


def test_projections_are_included():
    blocks = {block.name: block for block in describe_model("resnetsmall8").blocks}
    assert blocks["stage1/block1"].num_macs == 32 * 32 * (3 * 3 * 64 * 16 + 3 * 3 * 16 * 16 + 64 * 16)
    assert blocks["head"].num_params == 2 * 2 * 64 * 10 + 10  # a 4 x 4 pool leaves 2 x 2 positions of 8 x 8


def test_a_depthwise_kernel_reads_one_channel():
    # 32 channels of 3 x 3 each, then a 1 x 1 convolution to 16.
    (block,) = [block for block in describe_model("efficientnet_lite0").blocks if block.name == "stage1/block1"]
    assert block.num_macs == 112 * 112 * (3 * 3 * 32 + 32 * 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_params", "million_macs"),
    [
        ("cifar_resnet20", 269_722, 40.55),
        ("cifar_resnet56", 853_018, 125.49),
        ("resnet18", 11_689_512, 1_814),
        ("resnet34", 21_797_672, 3_664),
        ("resnet50", 25_557_032, 4_089),
        ("resnet101", 44_549_160, 7_801),
        ("resnet152", 60_192_808, 11_514),
        ("squeezenet1_0", 1_248_424, 819),
        ("squeezenet1_1", 1_235_496, 349),
    ],
)
def test_parameters_and_macs_match_published_numbers(name, num_params, million_macs):
    """Parameters and MACs, to the last digit published: torchvision's, and for CIFAR the pruning literature's."""
    description = describe_model(name)
    assert description.num_params == num_params
    last_digit = 0.01 if name.startswith("cifar") else 1
    assert description.num_macs / 1e6 == pytest.approx(million_macs, abs=0.501 * last_digit)


def test_names_show_blocks_and_taps(capsys):
    assert main(["models", "cifar_resnet8", "resnetsmall38"]) == 0
    out = capsys.readouterr().out
    assert "cifar_resnet8: 75,290 parameters, 12,239,488 MACs per image of 32 px, 10 classes (cifar10)" in out
    (row,) = [line for line in out.splitlines() if line.startswith("stage1/block1 ") and "4,718,592" in line]
    # Three 3 x 3 convolutions at stride 1 have a receptive field of 7 x 7 pixels.
    assert row.split() == ["stage1/block1", "32", "x", "32", "x", "16", "4,672", "4,718,592", "1", "7", "stage1"]
    assert "resnetsmall38: " in out  # a depth that is not listed


@pytest.mark.slow
def test_detail_prints_a_row_for_every_network(capsys):
    assert main(["models", "--detail"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert set(jaxft.list_models()) <= set(rows)
    assert rows["resnetsmall14"].split("  ")[-1] == "cifar10, cifar100"  # published weights
    assert rows["cifar_resnet8"].endswith("–")
    assert "75,290" in rows["cifar_resnet8"] and "12.2" in rows["cifar_resnet8"]


def test_without_names_all_families_are_listed(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in jaxft.list_models())


def test_an_unknown_name_is_refused_with_a_suggestion(capsys):
    assert main(["models", "cifar_resnet8", "resnetsmal8"]) == 2
    captured = capsys.readouterr()
    assert "no model 'resnetsmal8' (did you mean 'resnetsmall8'?)" in captured.err and not captured.out
