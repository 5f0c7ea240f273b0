"""How few parameters have to train, and does a few trained well match all?

A residual network of 14 layers, trained on CIFAR-100, is fine-tuned on 20 images of each of six kinds of scenes: the
head alone, besides it all biases, the batch norms, the last unit, low-rank changes of the kernels of rank 1, 4 and 16,
or everything. The body's rate is selected on validation, in every arm by every seed.

Source: Ben Zaken, Goldberg & Ravfogel 2022 (BitFit); Mudrakarta et al. 2019 and Frankle, Schwab & Morcos 2021 (batch
norm); Yosinski et al. 2014 (last layers); Hu et al. 2022 (LoRA).
Expected: all of them beat the head alone; LoRA comes near to everything as its rank rises, and biases or batch norms
get most of the way with few images.
Data: weights/resnetsmall14.cifar100.safetensors and images/intel-scenes-6.zip, in ../shared/data beside the clone or
in a folder named behind the config, parameter_efficient.py:FOLDER. --dry-run says how long it takes. Behind
parameter_efficient.py:small (or small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full
is the scale of publications (ImageNet's ResNet-50 from the file named in --config.source.weights; TFDS' sun397), for
accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import study_data


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    size, files = study_data(arg, __file__, "weights/resnetsmall14.cifar100.safetensors", "images/intel-scenes-6.zip")
    full, small = size == "full", size == "small"
    weights, scenes = files or ("resnet50.safetensors", "tfds:sun397/standard-part1-120k")

    config = ConfigDict()
    config.title = "Parameter-efficient relatives: head, biases, batch norms, last unit, LoRA, all"
    config.seeds = 2 if small else 3

    config.source = {"model": "resnet50" if full else "resnetsmall14", "weights": weights}
    config.target = {
        "data": scenes,
        "train_per_class": 20,
        "val_per_class": 5 if full else 10,
        "size_px": 256 if full else 32,
    }
    config.training = {
        "optimizer": {
            "learning_rate": 0.1,  # the head's
            "weight_decay": 5e-4,
        },
        "batches": {"size": 64 if full else 30},
        "schedule": {"epochs": 30.0 if full else 1.0 if small else 12.0},
        "augmentation": {
            "flip": {"enabled": True},
            "crop": {"size_px": 224, "scale_min": 0.3} if full else {"padding_px": 4},
        },
    }
    rates, ranks = ([0.01], [4]) if small else ([0.01, 0.1], [1, 4, 16])
    config.factors = [
        {"training.layers.tune": ["head"]},
        {
            "training.layers.tune": ["bias", "batch_norm", "last_units", "all"],
            "training.layers.backbone_learning_rate": rates,
        },
        {
            "training.layers.tune": ["lora"],
            "training.layers.lora_rank": ranks,
            "training.layers.backbone_learning_rate": rates,
        },
    ]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
