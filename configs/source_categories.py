"""Of a fixed number of source images, do more categories or more images of each make a better network to start from?

A small residual network is trained on 800 images of Tiny ImageNet at 32 x 32 pixels, which are 20 images each of 40
classes, 10 of 80 or 4 of 200, and fine-tuned to Caltech-101's classes from seven images of each. The same network
started at random is the comparison. The body's rate is selected on validation, in every arm by every seed; each seed
draws its own source classes and images, trains its own source, and draws the same target images in all arms.

Source: Huh, Agrawal & Efros 2016, section 5 (more classes or more examples); Li, Herranz & Jiang 2020.
Expected: all beat the random start; more categories help more than more images of each, with diminishing returns. Of
800 images the differences may lie within the intervals.
Found, test accuracy in percent with 95% intervals over five seeds: 40 classes 12.4 +- 1.8, 80 13.5 +- 0.7, 200
12.1 +- 2.2, random 9.1 +- 1.2. All beat the random start (p <= 0.026, Holm); how the 800 images are spread makes no
difference that five seeds show.
Data: images/tiny-imagenet-200.zip and images/caltech-101.zip, in ../shared/data beside the clone or in a folder named
behind the config, source_categories.py:FOLDER. About 12 minutes on two cores, in worker processes. Behind
source_categories.py:small (or small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full
is the scale of the publications (TFDS' imagenet2012 and caltech101), for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import study_data


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    size, files = study_data(arg, __file__, "images/tiny-imagenet-200.zip", "images/caltech-101.zip")
    full = size == "full"
    source, target = files or ("tfds:imagenet2012", "tfds:caltech101")

    config = ConfigDict()
    config.title = "Source categories: few with many images, or many with few"
    config.seeds = 2 if size == "small" else 5
    config.streams = {"source": None}  # the source's own chance is in the intervals

    config.source = ConfigDict()
    config.source.model = "resnet18" if full else "cifar_resnet8"
    config.source.images = {
        "data": source,
        "num_images": 127_000 if full else 800,
        "size_px": 256 if full else 32,
        "tested": False,
    }
    config.source.training = {
        "optimizer": {"learning_rate": 0.1, "weight_decay": 1e-4 if full else 5e-4},
        "schedule": {"epochs": 90.0 if full else 3.0 if size == "small" else 30.0},
        "batches": {"size": 256 if full else 50},
        "augmentation": {
            "flip": {"enabled": True},
            "crop": {"size_px": 224, "scale_min": 0.08} if full else {"padding_px": 4},
        },
        "selection": {"weights": "last"},
    }

    config.target = {
        "data": target,
        "train_per_class": 24 if full else 7,
        "val_per_class": 6 if full else 3,
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

    rates = [0.01] if size == "small" else [0.01, 0.1]
    config.factors = [
        {
            "source.images.num_classes": [127, 250, 500, 1000] if full else [40, 80, 200],
            "training.initialization.start": ["pretrained"],
            "training.layers.backbone_learning_rate": rates,
        },
        {"training.initialization.start": ["random"], "training.layers.backbone_learning_rate": rates},
    ]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
