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

from jaxft.config import study_data


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    size, files = study_data(
        arg,
        __file__,
        *(f"weights/resnetsmall8.{source}.safetensors" for source in ("cifar10", "cifar100")),
        *("images/caltech-101.zip", "images/intel-scenes-6.zip"),
    )
    full = size == "full"
    sources, targets = files[:2], files[2:] or ["tfds:caltech101", "tfds:sun397/standard-part1-120k"]

    config = ConfigDict()
    config.title = "Source identity: objects and scenes from CIFAR-10, CIFAR-100 and scratch"
    config.seeds = 2 if size == "small" else 5

    config.source = ConfigDict()
    config.source.model = "resnet50" if full else "resnetsmall8"
    if full:
        config.source.training = {
            "optimizer": {"learning_rate": 0.1, "weight_decay": 1e-4},
            "schedule": {"epochs": 90.0},
            "batches": {"size": 256},
            "augmentation": {"flip": {"enabled": True}, "crop": {"size_px": 224, "scale_min": 0.08}},
            "selection": {"weights": "last"},
        }
        places = {"data": "tfds:places365_small", "size_px": 256, "tested": False}
        objects = {"data": "tfds:imagenet2012", "size_px": 256, "tested": False}
        origin = {"source.images": [objects, places, objects | {"union": ["tfds:places365_small"]}]}
    else:
        origin = {"source.weights": sources}

    config.target = {
        "train_per_class": 20 if full else 7,
        "val_per_class": 5 if full else 3,
        "size_px": 256 if full else 32,
    }
    config.training = {
        "optimizer": {
            "learning_rate": 0.1,  # the head's
            "weight_decay": 5e-4,
        },
        "schedule": {"epochs": 2.0 if size == "small" else 12.0},
        "batches": {"size": 32},
        "augmentation": {
            "flip": {"enabled": True},
            "crop": {"size_px": 224, "scale_min": 0.3} if full else {"padding_px": 4},
        },
    }

    pretrained_rates, random_rates = ([0.003], [0.03]) if size == "small" else ([0.001, 0.01], [0.01, 0.1])
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
