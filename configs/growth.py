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

from jaxft.config import study_data


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    size, files = study_data(arg, __file__, "weights/resnetsmall14.cifar100.safetensors", "images/intel-scenes-6.zip")
    full, small = size == "full", size == "small"
    weights, scenes = files or ("resnet50.safetensors", "tfds:sun397/standard-part1-120k")

    config = ConfigDict()
    config.title = "Growth: new units beside the last stage, or on top of it"
    config.seeds = 2 if small else 3

    config.source = {"model": "resnet50" if full else "resnetsmall14", "weights": weights}
    config.target = {"data": scenes, "train_per_class": 50, "val_per_class": 10, "size_px": 256 if full else 32}
    config.training = {
        "optimizer": {"learning_rate": 0.05, "weight_decay": 5e-4},
        "layers": {"backbone_learning_rate": 0.01},
        "batches": {"size": 64 if full else 30},
        "schedule": {"epochs": 30.0 if full else 1.0 if small else 10.0},
        "augmentation": {
            "flip": {"enabled": True},
            "crop": {"size_px": 224, "scale_min": 0.3} if full else {"padding_px": 4},
        },
    }
    widths = [512, 2048] if full else [16] if small else [16, 64]
    config.factors = [
        {"training.initialization.grow": ["none"], "training.initialization.copied": ["tuned", "frozen"]},
        {
            "training.initialization.grow": ["wider", "deeper"],
            "training.initialization.grown_features": widths,
            "training.initialization.copied": ["tuned", "frozen"],
        },
    ]
    return config
