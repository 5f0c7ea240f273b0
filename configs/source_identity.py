"""Which source is the better start for objects, and which for scenes: CIFAR-10, CIFAR-100, or none?

Residual networks of one architecture for 32 x 32 pixels, trained on CIFAR-10 and on CIFAR-100, and one started at
random, are fine-tuned to objects (Caltech-101) and to scenes (six kinds of Intel's), from seven images of each class.
The body's rate is selected on validation, in every arm by every seed; seeds draw the same images in all arms.

Source: Li, Herranz & Jiang 2020; Zhou et al. 2017 (object-centric and scene-centric sources).
Expected: both sources beat the random start on both targets; CIFAR-100, with more categories and some scenes among
them, beats CIFAR-10. At the full scale, the object-centric source is the better for objects, the scene-centric for
scenes.
Found, test accuracy in percent with 95% intervals over five seeds: CIFAR-100 52.4 +- 1.4, CIFAR-10 47.1 +- 1.3, none
15.6 +- 1.8 on objects; 61.7 +- 6.2, 56.0 +- 5.2 and 35.2 +- 2.6 on scenes. Both beat the random start on both (p <=
0.005, Holm); CIFAR-100 is ahead on objects (by 5.3 +- 2.0 points), on scenes the interval reaches zero (5.7 +- 7.4).
Data: weights/resnetsmall8.cifar10.safetensors and that of cifar100, images/caltech-101.zip and
images/intel-scenes-6.zip, in ../shared/data beside the clone or in a folder named behind the config,
source_identity.py:FOLDER. About 7 minutes on two cores, in worker processes. Behind source_identity.py:small (or
small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full is the scale of the publications
(ImageNet or Places as the source; TFDS' caltech101 and sun397), for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    *sources, objects, scenes = scale.files(
        *(f"weights/resnetsmall8.{source}.safetensors" for source in ("cifar10", "cifar100")),
        *("images/caltech-101.zip", "images/intel-scenes-6.zip"),
        full=("tfds:imagenet2012", "tfds:places365_small", "tfds:caltech101", "tfds:sun397/standard-part1-120k"),
    )
    title = "Source identity: objects and scenes from CIFAR-10, CIFAR-100 and scratch"
    config = scale.study(title, seeds=scale.pick(5, small=2))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50")}
    origin = {"source.weights": sources}
    if scale.is_full:
        config.source.training = scale.source_training(epochs=90.0, batch_size=256)
        imagenet, places = (scale.images(source, tested=False) for source in sources)
        origin = {"source.images": [imagenet, places, imagenet | {"union": sources[1:]}]}

    config.target = {
        "train_per_class": scale.pick(7, full=20),
        "val_per_class": scale.pick(3, full=5),
        "size_px": scale.size_px,
    }
    config.training = scale.training(learning_rate=0.1, batch_size=32)  # the head's rate
    config.training.schedule = {"epochs": scale.pick(12.0, small=2.0)}

    targets = [objects, scenes]
    pretrained_rates, random_rates = scale.pick(([0.001, 0.01], [0.01, 0.1]), small=([0.003], [0.03]))
    config.factors = [
        {
            "target.data": targets,
            **origin,
            "training.initialization.start": ["pretrained"],
            "training.layers.backbone_learning_rate": pretrained_rates,
        },
        {
            "target.data": targets,
            "training.initialization.start": ["random"],
            "training.layers.backbone_learning_rate": random_rates,
        },
    ]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
