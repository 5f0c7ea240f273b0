"""What of a pretrained network helps: its features, the scale of its weights, its first units, or its head's start?

A small residual network is trained on Tiny ImageNet at 32 x 32 pixels, and the target is 20 images of each of six
kinds of scenes. It starts from all of the source's weights, from those after one and three passes, from its first unit
or its first two ("weight transfusion"), from random weights with the mean and deviation of each leaf of the source's,
or from the architecture's own; the head of the pretrained network is drawn, zero, the classes' mean directions, or a
linear probe, which asks for fixed views of each image.

Source: Raghu et al. 2019, "Transfusion", section 5; Neyshabur, Sedghi & Zhang 2020 (earlier checkpoints); Qi, Brown &
Lowe 2018 (class means); Kumar et al. 2022 (a probe first).
Expected: pretrained beats matched, which is at least as good as random; the first units bring most of the gain in
speed; earlier checkpoints are worse; a head that begins at class means or a probe is ahead after few passes.
Data: images/tiny-imagenet-200.zip and images/intel-scenes-6.zip, in ../shared/data beside the clone or in a folder
named behind the config, initialisation.py:FOLDER. --dry-run says how long it takes. Behind initialisation.py:small (or
small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full is the scale of the publications
(TFDS' imagenet2012 and sun397), for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import study_data


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    size, files = study_data(arg, __file__, "images/tiny-imagenet-200.zip", "images/intel-scenes-6.zip")
    full, small = size == "full", size == "small"
    source, target = files or ("tfds:imagenet2012", "tfds:sun397/standard-part1-120k")

    config = ConfigDict()
    config.title = "Initialisation: pretrained, matched, transfused, earlier, random; and the head's start"
    config.seeds = 2 if small else 5

    side = 256 if full else 32
    config.source = {
        "model": "resnet50" if full else "cifar_resnet8",
        "images": {
            "data": source,
            "size_px": side,
            "tested": False,
            **({"num_classes": 20, "train_per_class": 20} if small else {}),
        },
        "training": {
            "optimizer": {"learning_rate": 0.1, "weight_decay": 1e-4 if full else 5e-4},
            "schedule": {"epochs": 90.0 if full else 3.0 if small else 12.0},
            "batches": {"size": 256 if full else 50},
            "augmentation": {
                "flip": {"enabled": True},
                "crop": {"size_px": 224, "scale_min": 0.08} if full else {"padding_px": 4},
            },
            "selection": {"weights": "last"},
        },
    }
    config.target = {"data": target, "train_per_class": 20, "val_per_class": 5 if full else 10, "size_px": side}
    config.training = {
        "optimizer": {"learning_rate": 0.05, "weight_decay": 5e-4},
        "batches": {"size": 64 if full else 30},
        "schedule": {"epochs": 30.0 if full else 1.0 if small else 15.0},
        "augmentation": {
            "flip": {"enabled": True},
            "crop": {"size_px": 224, "scale_min": 0.3} if full else {"padding_px": 4},
        },
    }
    config.factors = [
        {"training.initialization.start": ["pretrained", "matched", "random"]},
        {"source.epoch": [1, 10] if full else [1, 2] if small else [1, 3]},
        {"training.initialization.copied_units": ["stem", "stage1"]},
        {"training.initialization.head": ["zeros", "class_means"]},
        {"training.augmentation.views": [8]},  # what the next arm is to be compared with
        {
            "training.linear_probe.epochs": [100.0],
            "training.linear_probe.optimizer": ["lbfgs"],
            "training.augmentation.views": [8],
        },
    ]
    return config
