"""Question: which pretrained architecture is the best start, for a linear head and for full fine-tuning?

Thirteen published networks, each at its own image size and with its own preprocessing, are fine-tuned to the classes of
Caltech-101 with seven images per class. The head alone is trained for 30 epochs. Full fine-tuning takes 10 epochs, or 3
epochs for the larger networks at 224 px. So compare fully fine-tuned networks only within these two groups.

Source: Kornblith, Shlens & Le 2019, "Do better ImageNet models transfer better?" (16 networks, 12 data sets; the
correlation with ImageNet accuracy is .99 for fixed features and .96 for fine-tuning); Li, Herranz & Jiang 2020.
Expected: ImageNet networks at 224 px are far better than CIFAR networks at 32 px. Among CIFAR networks, deeper ones and
those pretrained on more classes (CIFAR-100) are better. Frozen and fine-tuned networks have the same order, except for
near ties. The distilled network, which was trained only for accuracy on its own classes, gains most from fine-tuning.
Found: not measured yet.
Cost: --dry-run prints an estimate of the time. The study reads weights/*.safetensors and images/caltech-101.zip, which
`jaxft weights get` and `jaxft data get` download. architecture.py:FOLDER reads them from FOLDER. architecture.py:small
(or small,FOLDER) runs for one or two minutes, which is too short to answer the question. architecture.py:full has the
scale of the publications, for accelerators: torchvision's ImageNet weights of ResNet-18 to 152; caltech101 from TFDS.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale

NETWORKS = (  # name, file, epochs of full fine-tuning
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
SMALL = (NETWORKS[0], NETWORKS[4], NETWORKS[7])
RESNETS = tuple((f"resnet{depth}", f"resnet{depth}", 30) for depth in (18, 34, 50, 101, 152))


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    networks = scale.pick(NETWORKS, small=SMALL, full=RESNETS)
    *weights, images = scale.files(
        *(f"weights/{file}.safetensors" for _, file, _ in networks),
        "images/caltech-101.zip",
        full=(*(f"torchvision/{file}" for _, file, _ in RESNETS), "tfds:caltech101"),
    )
    starts = [(model, path, epochs) for (model, _, epochs), path in zip(networks, weights, strict=True)]

    config = scale.study("Architecture: published networks at their own image sizes", seeds=scale.pick(3, small=2))
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
