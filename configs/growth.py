"""Do new units help a fine-tuned network, beside its last stage or on top of it?

A residual network of 14 layers, trained on CIFAR-100, is fine-tuned on 50 images of each of six kinds of scenes as it
is, with 16 or 64 new units beside its last stage, or with a new layer of 16 or 64 units on top of it. New units are as
large as the old ones and have the head's rate; the old ones are frozen or tuned.

Source: Wang, Ramanan & Hebert 2017, "Growing a brain" (wider and deeper networks beat plain fine-tuning).
Expected: tuned beats frozen; new units gain more where the old ones are frozen; wider is better than deeper where the
new layer's units are few.
Data: weights/resnetsmall14.cifar100.safetensors and images/intel-scenes-6.zip, in ../shared/data beside the clone or
in a folder named behind the config, growth.py:FOLDER. --dry-run says how long it takes. Behind growth.py:small (or
small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full is the scale of the publication
(ImageNet's ResNet-50 from the file named in --config.source.weights; TFDS' sun397), for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall14.cifar100.safetensors", "images/intel-scenes-6.zip")
    weights, scenes = scale.files(*names, full=("resnet50.safetensors", "tfds:sun397/standard-part1-120k"))
    config = scale.study("Growth: new units beside the last stage, or on top of it", seeds=scale.pick(3, small=2))
    config.source = {"model": scale.pick("resnetsmall14", full="resnet50"), "weights": weights}
    config.target = scale.images(scenes, train_per_class=50, val_per_class=10)
    config.training = scale.training(learning_rate=0.05, batch_size=scale.pick(30, full=64))
    config.training.layers = {"backbone_learning_rate": 0.01}
    config.training.schedule = {"epochs": scale.pick(10.0, small=1.0, full=30.0)}

    widths = scale.pick([16, 64], small=[16], full=[512, 2048])
    config.factors = [
        {"training.initialization.grow": ["none"], "training.initialization.copied": ["tuned", "frozen"]},
        {
            "training.initialization.grow": ["wider", "deeper"],
            "training.initialization.grown_features": widths,
            "training.initialization.copied": ["tuned", "frozen"],
        },
    ]
    return config
