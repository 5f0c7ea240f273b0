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

from jaxft.config import study_data


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    size, files = study_data(arg, __file__, "weights/resnetsmall8.cifar100.safetensors", "images/intel-scenes-6.zip")
    full = size == "full"
    weights, images = files or ("resnet50.safetensors", "tfds:sun397/standard-part1-120k")

    config = ConfigDict()
    config.title = "Momentum, at one learning rate and at one effective rate"
    config.seeds = 2 if size == "small" else 5

    config.source = {"model": "resnet50" if full else "resnetsmall8", "weights": weights}
    config.target = {
        "data": images,
        "train_per_class": 20,
        "val_per_class": 5 if full else 10,
        "size_px": 256 if full else 32,
    }
    config.training = {
        "schedule": {"epochs": 4.0 if size == "small" else 25.0},
        "batches": {"size": 64 if full else 30},
        "optimizer": {"weight_decay": 5e-4},
        "augmentation": {
            "flip": {"enabled": True},
            "crop": {"size_px": 224, "scale_min": 0.3} if full else {"padding_px": 4},
        },
    }

    momenta = [0.5, 0.9] if size == "small" else [0.0, 0.5, 0.9, 0.99]
    config.factors = [
        {"training.optimizer.learning_rate": [0.01], "training.optimizer.momentum": momenta},
        {"training.optimizer.effective_learning_rate": [0.1], "training.optimizer.momentum": momenta},
    ]
    return config
