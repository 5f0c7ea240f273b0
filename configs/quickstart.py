"""Does a network that has seen other digits learn new ones better, and how fast should its body move?

A small residual network is trained on the digits 0 to 4, then fine-tuned to tell 5 to 9 apart from ten images of
each, its body frozen or moving at one of four rates. The same network started at random is the comparison.

Source: Li, Herranz & Jiang 2020 (initial learning rate of the fine-tuned body); Yosinski et al. 2014.
Expected: pretrained beats random at every rate; a moderate body rate beats a frozen body and a very small one;
the lower layers change least.
Data: scikit-learn's digits (UCI, 1,797 scans), which come with that package. Takes under three minutes on two cores.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study."""
    config = ConfigDict()
    config.title = "Quickstart: digits 0-4 to digits 5-9"
    config.seeds = 5

    config.source = ConfigDict()
    config.source.model = "resnetsmall8"
    config.source.images = {
        "data": "digits",
        "classes": ["0", "1", "2", "3", "4"],
        "val_per_class": 20,
        "size_px": 16,
    }
    config.source.training = {
        "optimizer": {"learning_rate": 0.1, "weight_decay": 5e-4},
        "schedule": {"epochs": 30.0},
        "batches": {"size": 64},
        "augmentation": {"crop": {"padding_px": 2}},
    }

    config.target = {
        "data": "digits",
        "classes": ["5", "6", "7", "8", "9"],
        "train_per_class": 10,
        "val_per_class": 10,
    }

    config.training = {
        "optimizer": {"learning_rate": 0.1},  # the head's
        "schedule": {"epochs": 10.0},
        "batches": {"size": 25},
    }

    rates = [0.001, 0.01, 0.1, 1.0]
    config.factors = [
        {"training.initialization.start": ["pretrained"], "training.layers.backbone_learning_rate": ["frozen", *rates]},
        {"training.initialization.start": ["random"], "training.layers.backbone_learning_rate": rates},
    ]
    return config
