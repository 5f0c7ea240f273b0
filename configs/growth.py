"""Question: do new units help a fine-tuned network, next to its last stage or on top of it?

A residual network of 14 layers, pretrained on CIFAR-100, is fine-tuned on 50 images of each of six classes of scenes:
unchanged, with 16 or 64 new units next to its last stage, or with a new layer of 16 or 64 units on top of it. New units
are scaled to the size of the old ones and have the learning rate of the head. The old units are frozen or tuned.

Source: Wang, Ramanan & Hebert 2017, "Growing a brain" (wider and deeper networks beat plain fine-tuning).
Expected: tuned beats frozen. New units help more if the old ones are frozen. Wider beats deeper if the new layer has
few units.
Found: not measured yet.
Cost: --dry-run prints an estimate of the time. The study reads weights/resnetsmall14.cifar100.safetensors and
images/intel-scenes-6.zip, which `jaxft weights get` and `jaxft data get` download. growth.py:FOLDER reads them from
FOLDER. growth.py:small (or small,FOLDER) runs for one or two minutes, which is too short to answer the question.
growth.py:full has the scale of the publications, for accelerators: torchvision's first ImageNet weights of ResNet-50;
sun397 from TFDS.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall14.cifar100.safetensors", "images/intel-scenes-6.zip")
    weights, scenes = scale.files(
        *names, full=("torchvision/resnet50.IMAGENET1K_V1", "tfds:sun397/standard-part1-120k")
    )
    config = scale.study("Growth: new units next to the last stage, or on top of it", seeds=scale.pick(3, small=2))
    config.source = {"model": scale.pick("resnetsmall14", full="resnet50"), "weights": weights}
    config.target = scale.images(scenes, train_per_class=50, val_per_class=10)
    config.training = scale.training(learning_rate=0.05, batch_size=scale.pick(30, full=64))
    config.training.layers = {"backbone_learning_rate": 0.01}
    config.training.schedule = {"epochs": scale.pick(10.0, small=1.0, full=30.0)}

    widths = scale.pick([16, 64], small=[16], full=[512, 2048])
    config.factors = [
        {"training.initialization.grow": ["none"], "training.initialization.transferred": ["tuned", "frozen"]},
        {
            "training.initialization.grow": ["wider", "deeper"],
            "training.initialization.grown_features": widths,
            "training.initialization.transferred": ["tuned", "frozen"],
        },
    ]
    return config
