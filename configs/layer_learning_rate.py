"""Question: how should the learning rate differ between layers?

A residual network for 32 x 32 pixels, pretrained on CIFAR-100, is fine-tuned on 20 images of each of six classes of
scenes. The learning rate of the head is always 0.1. That of the backbone is equal, a tenth, a hundredth, or zero
(frozen). In other settings it falls by a constant factor from block to block, falls from stage to stage, or the lower
stages are frozen.

Source: Girshick et al. 2014 (head and backbone); Howard & Ruder 2018, section 3.2, and Clark et al. 2020 (layer-wise
decay); Yosinski et al. 2014 (frozen layers).
Expected: a backbone with a lower learning rate than the head beats one with the same rate and a frozen one. Layer-wise
decay is as good as the best single learning rate, without a search for it. Freezing the lower stages, which are the
most general, costs little.
Found: not measured yet.
Cost: --dry-run prints an estimate of the time. The study reads weights/resnetsmall8.cifar100.safetensors and
images/intel-scenes-6.zip, which `jaxft weights get` and `jaxft data get` download. layer_learning_rate.py:FOLDER reads
them from FOLDER. layer_learning_rate.py:small (or small,FOLDER) runs for one or two minutes, which is too short to
answer the question. layer_learning_rate.py:full has the scale of the publications, for accelerators: torchvision's
first ImageNet weights of ResNet-50; sun397 from TFDS.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall8.cifar100.safetensors", "images/intel-scenes-6.zip")
    weights, images = scale.files(
        *names, full=("torchvision/resnet50.IMAGENET1K_V1", "tfds:sun397/standard-part1-120k")
    )
    config = scale.study("Learning rates by layer", seeds=scale.pick(5, small=2))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50"), "weights": weights}
    config.target = scale.images(images, train_per_class=20, val_per_class=scale.pick(10, full=5))
    config.training = scale.training(learning_rate=0.1, batch_size=scale.pick(30, full=64))  # of the head
    config.training.schedule = {"epochs": scale.pick(25.0, small=4.0)}

    lower, upper = scale.pick(("stem/.*|stage1/.*", "stage2/.*"), full=("stem/.*|stage[12]/.*", "stage[34]/.*"))
    by_stage = [((lower, 0.01), (upper, 0.1)), ((lower, "frozen"), (upper, 0.1))]
    config.factors = [
        {"training.layers.backbone_learning_rate": scale.pick([0.1, 0.01, 0.001, "frozen"], small=[0.01])},
        {"training.layers.decay": scale.pick([0.8, 0.5, 0.3], small=[0.5])},
        {
            "training.layers.rates": scale.pick(by_stage, small=by_stage[:1]),
            "training.layers.backbone_learning_rate": [0.03],
        },
    ]
    return config
