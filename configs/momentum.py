"""Does the momentum matter in itself, or by the effective learning rate alone?

A residual network for 32 x 32 pixels that was trained on CIFAR-100 is fine-tuned on 20 images of each of six kinds of
scenes, with momentum 0, 0.5, 0.9 and 0.99: once at one learning rate, so that the effective rate, the rate over one
minus the momentum, is from 0.01 to 1; once at one effective rate of 0.1. At momentum 0.9 the two are the same.

Source: Li et al. 2020, "Rethinking the hyperparameters for fine-tuning", section 3.3.
Expected: at one learning rate accuracy changes with the momentum, as it does with the rate; at one effective rate it
changes less, but for 0.99, whose memory of a hundred steps is as long as the training.
Data: weights/resnetsmall8.cifar100.safetensors and images/intel-scenes-6.zip, in ../shared/data beside the clone or in
a folder named behind the config, momentum.py:FOLDER. --dry-run says how long it takes. Behind momentum.py:small (or
small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full is the scale of the publications
(ImageNet's ResNet-50 from the file named in --config.source.weights; TFDS' sun397), for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall8.cifar100.safetensors", "images/intel-scenes-6.zip")
    weights, images = scale.files(*names, full=("resnet50.safetensors", "tfds:sun397/standard-part1-120k"))
    config = scale.study("Momentum, at one learning rate and at one effective rate", seeds=scale.pick(5, small=2))
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
