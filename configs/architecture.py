"""Which pretrained architecture is the best start, its head alone trained or all of it?

Thirteen networks as they were published, each at its own size of images and with its own preprocessing, are fine-tuned
to Caltech-101's classes from seven images of each: the head alone for thirty passes, and everything for ten, or for
three the larger ones at 224 px: what is fine-tuned is compared within these two kinds.

Source: Kornblith, Shlens & Le 2019, "Do better ImageNet models transfer better?" (16 networks, 12 sets: a correlation
of .99 with features as they are, .96 fine-tuned); Li, Herranz & Jiang 2020.
Expected: ImageNet's networks at 224 px are far ahead of CIFAR's at 32; of those deeper and from more classes
(CIFAR-100) is better; the order of frozen networks and of fine-tuned ones agrees but for near equals; a network that
was taught for its own classes alone (the distilled one) gains most from tuning.
Data: the files of weights/ and images/caltech-101.zip, in ../shared/data beside the clone or in a folder named behind
the config, architecture.py:FOLDER. --dry-run says how long it takes. Behind architecture.py:small (or small,FOLDER) is
a run of a minute or two with three of the networks, too short to answer anything; behind :full is the scale of the
publication (torchvision's files of ResNet-18 to 152 in the folder of the run; TFDS' caltech101), for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale

NETWORKS = (  # name, file, epochs of tuning everything
    ("resnetsmall8", "resnetsmall8.cifar10", 10),
    ("resnetsmall8", "resnetsmall8.cifar10-distilled", 10),
    ("resnetsmall8", "resnetsmall8.cifar100", 10),
    ("resnetsmall14", "resnetsmall14.cifar10", 10),
    ("resnetsmall14", "resnetsmall14.cifar100", 10),
    ("resnetsmall20", "resnetsmall20.cifar10", 10),
    ("resnetsmall20", "resnetsmall20.cifar100", 10),
    ("wrn10_1", "wrn10_1.cifar10", 10),
    ("wrn16_1", "wrn16_1.cifar10", 10),
    ("cifar_resnet20", "cifar_resnet20.cifar10", 10),
    ("squeezenet1_0_caffe", "squeezenet1_0.imagenet-deepcompressed", 3),
    ("squeezenet1_1_keras", "squeezenet1_1.imagenet-notop", 3),
    ("efficientnet_lite0", "efficientnet_lite0.imagenet", 3),
)
RESNETS = tuple((f"resnet{depth}", f"resnet{depth}", 30) for depth in (18, 34, 50, 101, 152))


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    networks = scale.pick(NETWORKS, full=RESNETS)
    *weights, images = scale.files(
        *(f"weights/{file}.safetensors" for _, file, _ in NETWORKS),
        "images/caltech-101.zip",
        full=(*(f"{file}.safetensors" for _, file, _ in RESNETS), "tfds:caltech101"),
    )
    starts = [(model, path, epochs) for (model, _, epochs), path in zip(networks, weights, strict=True)]
    if scale.is_small:
        starts = [starts[0], starts[4], starts[7]]

    config = scale.study("Architecture: published networks at their own sizes", seeds=scale.pick(3, small=2))
    config.target = {
        "data": images,
        "train_per_class": scale.pick(7, full=24),
        "val_per_class": scale.pick(3, full=6),
        "classes": scale.pick(None, small=["accordion", "anchor", "ant"]),
    }
    config.training = {
        "optimizer": {"learning_rate": 0.01, "weight_decay": 5e-4},
        "batches": {"size": scale.pick(16, full=64)},
    }
    config.factors = [
        {
            "source.model": [model],
            "source.weights": [path],
            "training.layers.tune": [tune],
            "training.schedule.epochs": [scale.pick(length, small=1.0)],
        }
        for model, path, epochs in starts
        for tune, length in (("head", 30.0), ("all", float(epochs)))
    ]
    return config
