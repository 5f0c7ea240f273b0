"""Question: do single units become more selective by fine-tuning, do fewer die, and which images activate them?

A residual network of 14 layers, pretrained on CIFAR-100, or with random weights, is trained on 30 images of each of six
classes of scenes, at several learning rates of the backbone. The analysis measures every unit (channel) of four taps on
60 validation images of each class, before and after training.

Source: Morcos et al. 2018, "On the importance of single directions for generalization" (class selectivity); Agrawal et
al. 2014, "Analyzing the performance of multilayer neural networks for object recognition" (label entropy of the top
images of a unit); Zeiler & Fergus 2014 (top images).
Expected: units become more selective for the classes of the target, most of all in the last stage. Units of the first
stage keep their top images. Few units die. The changes grow with the learning rate.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', or both as 'small,FOLDER'."""
    scale = read_scale(arg, __file__)
    weights, images = scale.files("weights/resnetsmall14.cifar100.safetensors", "images/intel-scenes-6.zip")
    config = scale.study("Single units before and after fine-tuning", scale.pick(5, small=2))
    config.source = {"model": "resnetsmall14", "weights": weights}
    config.target = scale.images(images, train_per_class=30, val_per_class=60, test_per_class=60)
    config.training = scale.training(learning_rate=0.1, batch_size=20)  # of the head
    config.training.schedule = {"epochs": scale.pick(20.0, small=1.0)}
    config.training.selection = {"weights": "last"}  # the validation images are those of the analysis
    config.streams = {"split": 0}  # all seeds have the same validation images
    config.analyses = ["units"]

    rates = "training.layers.backbone_learning_rate"
    config.factors = [
        {"training.initialization.start": ["pretrained"], rates: scale.pick([0.001, 0.01, 0.1], small=[0.01])},
        {"training.initialization.start": ["random"], rates: scale.pick([0.01, 0.1], small=[0.1])},
    ]
    return config
