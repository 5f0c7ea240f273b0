"""Question: does momentum matter by itself, or only through the effective learning rate?

A residual network for 32 x 32 pixels, pretrained on CIFAR-100, is fine-tuned on 20 images of each of six classes of
scenes, with momentum 0, 0.5, 0.9 and 0.99. One arm has a constant learning rate, so the effective learning rate
(learning rate over one minus momentum) goes from 0.01 to 1. The other arm has a constant effective learning rate of
0.1. At momentum 0.9 the two arms are equal.

Source: Li et al. 2020, "Rethinking the hyperparameters for fine-tuning", section 3.3.
Expected: at a constant learning rate, accuracy changes with momentum as it does with the learning rate. At a constant
effective learning rate, it changes less, except at 0.99, which averages over a hundred steps, as long as the training
itself.
Found: not measured yet.
Cost: --dry-run prints an estimate of the time. The study reads weights/resnetsmall8.cifar100.safetensors and
images/intel-scenes-6.zip, which `jaxft weights get` and `jaxft data get` download. momentum.py:FOLDER reads them from
FOLDER. momentum.py:small (or small,FOLDER) runs for one or two minutes, which is too short to answer the question.
momentum.py:full has the scale of the publications, for accelerators: torchvision's first ImageNet weights of ResNet-50;
sun397 from TFDS.
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
    config = scale.study("Momentum, at fixed and at fixed effective learning rate", seeds=scale.pick(5, small=2))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50"), "weights": weights}
    config.target = scale.images(images, train_per_class=20, val_per_class=scale.pick(10, full=5))
    config.training = scale.training(batch_size=scale.pick(30, full=64))
    config.training.schedule = {"epochs": scale.pick(25.0, small=4.0)}

    momenta = scale.pick([0.0, 0.5, 0.9, 0.99], small=[0.5, 0.9])
    config.factors = [
        {"training.optimizer.learning_rate": [0.01], "training.optimizer.momentum": momenta},
        {"training.optimizer.effective_learning_rate": [0.1], "training.optimizer.momentum": momenta},
    ]
    return config
