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

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall14.cifar100.safetensors", "images/intel-scenes-6.zip")
    weights, scenes = scale.files(*names, full=("resnet50.safetensors", "tfds:sun397/standard-part1-120k"))
    title = "Parameter-efficient relatives: head, biases, batch norms, last unit, LoRA, all"
    config = scale.study(title, seeds=scale.pick(3, small=2))
    config.source = {"model": scale.pick("resnetsmall14", full="resnet50"), "weights": weights}
    config.target = scale.images(scenes, train_per_class=20, val_per_class=scale.pick(10, full=5))
    config.training = scale.training(learning_rate=0.1, batch_size=scale.pick(30, full=64))  # the head's rate
    config.training.schedule = {"epochs": scale.pick(12.0, small=1.0, full=30.0)}

    rates, ranks = scale.pick(([0.01, 0.1], [1, 4, 16]), small=([0.01], [4]))
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
