"""Does a network that knows objects learn scenes, from twenty images a class, better than one from scratch?

A small residual network for 32 x 32 pixels, trained on the objects of CIFAR-10, on those of CIFAR-100, or not at all,
is fine-tuned to six kinds of scenes (buildings, forest, glacier, mountain, sea, street). The rate of its body is
selected on validation, separately in every arm and by every seed; the five seeds draw the same images in all arms.

Source: Li, Herranz & Jiang 2020 (object-centric and scene-centric sources and targets); Zhou et al. 2017; Yosinski
et al. 2014.
Expected: both pretrained networks beat the one from scratch, by more than the chance of which images are drawn.
Data: two files of weights and one of images, in one folder: weights/resnetsmall14.cifar10.safetensors, the same of
cifar100, and images/intel-scenes-6.zip. It is ../shared/data beside the clone, or what is named behind the config:
objects_to_scenes.py:FOLDER. Takes about 20 minutes on two cores; behind objects_to_scenes.py:small (or small,FOLDER) is
a run of a minute or two, which shows that all works and is too short to answer anything.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', or both as 'small,FOLDER'."""
    scale = read_scale(arg, __file__)
    sources = [f"weights/resnetsmall14.{source}.safetensors" for source in ("cifar10", "cifar100")]
    *weights, images = scale.files(*sources, "images/intel-scenes-6.zip")
    title = "Objects to scenes: CIFAR-10 and CIFAR-100 to six kinds of scenes"
    config = scale.study(title, seeds=scale.pick(5, small=2))
    config.source = {"model": "resnetsmall14"}
    config.target = scale.images(images, train_per_class=20, val_per_class=20)
    config.training = scale.training(learning_rate=0.1, batch_size=20)  # the head's rate
    config.training.schedule = {"epochs": scale.pick(30.0, small=2.0)}

    # As many rates to select from in every arm, each list around what validation prefers (seen on two other seeds).
    pretrained_rates = scale.pick([0.0003, 0.001, 0.003, 0.01], small=[0.001, 0.003])
    random_rates = scale.pick([0.003, 0.01, 0.03, 0.1], small=[0.01, 0.03])
    config.factors = [
        {
            "source.weights": weights,
            "training.initialization.start": ["pretrained"],
            "training.layers.backbone_learning_rate": pretrained_rates,
        },
        {"training.initialization.start": ["random"], "training.layers.backbone_learning_rate": random_rates},
    ]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
