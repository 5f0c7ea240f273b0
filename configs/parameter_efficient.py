"""Question: how few parameters must train, and do a few of them match full fine-tuning?

A residual network of 14 layers, pretrained on CIFAR-100, is fine-tuned on 20 images of each of six classes of scenes.
The head trains alone, or with all biases, the batch norms, the last block, LoRA of rank 1, 4 or 16, or everything. In
every arm, each seed selects the learning rate of the backbone on validation.

Source: Ben Zaken, Goldberg & Ravfogel 2022 (BitFit); Mudrakarta et al. 2019 and Frankle, Schwab & Morcos 2021 (batch
norm); Yosinski et al. 2014 (last layers); Hu et al. 2022 (LoRA).
Expected: all beat the head alone. LoRA approaches full fine-tuning as its rank rises. With few images, biases or batch
norms give most of the gain.
Found: not measured yet.
Cost: --dry-run prints an estimate of the time. The study reads weights/resnetsmall14.cifar100.safetensors and
images/intel-scenes-6.zip, which `jaxft weights get` and `jaxft data get` download. parameter_efficient.py:FOLDER reads
them from FOLDER. parameter_efficient.py:small (or small,FOLDER) runs for one or two minutes, which is too short to
answer the question. parameter_efficient.py:full has the scale of the publications, for accelerators: torchvision's
first ImageNet weights of ResNet-50; sun397 from TFDS.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall14.cifar100.safetensors", "images/intel-scenes-6.zip")
    weights, scenes = scale.files(
        *names, full=("torchvision/resnet50.IMAGENET1K_V1", "tfds:sun397/standard-part1-120k")
    )
    title = "Parameter-efficient fine-tuning: head, biases, batch norms, last block, LoRA, all"
    config = scale.study(title, seeds=scale.pick(3, small=2))
    config.source = {"model": scale.pick("resnetsmall14", full="resnet50"), "weights": weights}
    config.target = scale.images(scenes, train_per_class=20, val_per_class=scale.pick(10, full=5))
    config.training = scale.training(learning_rate=0.1, batch_size=scale.pick(30, full=64))  # of the head
    config.training.schedule = {"epochs": scale.pick(12.0, small=1.0, full=30.0)}

    rates, ranks = scale.pick(([0.01, 0.1], [1, 4, 16]), small=([0.01], [4]))
    config.factors = [
        {"training.layers.tune": ["head"]},
        {
            "training.layers.tune": ["bias", "batch_norm", "last_blocks", "all"],
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
