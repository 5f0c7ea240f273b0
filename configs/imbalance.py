"""What does an uneven target cost, and does it help to draw its classes evenly?

A residual network for 32 x 32 pixels, trained on CIFAR-100, is fine-tuned to Fashion-MNIST's ten classes from 500
images in all: as many of each class, or falling from class to class by one factor, ten or fifty times as many of the
first as of the last (which class is the first is drawn by the seed). Batches are drawn from the images evenly, or from
the classes evenly. The images to select and to test on are even, so that accuracy is the mean over classes.

Source: Ouyang et al. 2016; Cui et al. 2019, section 5.1 (long-tailed CIFAR by the same formula); Huang et al. 2016.
Expected: accuracy falls as the imbalance rises; at the highest, drawing classes evenly wins some of it back.
Data: weights/resnetsmall8.cifar100.safetensors and images/fashion-mnist-8000.npz, in ../shared/data beside the clone or
in a folder named behind the config, imbalance.py:FOLDER. --dry-run says how long it takes. Behind imbalance.py:small
(or small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full is the scale of the
publications (ImageNet's ResNet-50 from the file named in --config.source.weights; TFDS' inaturalist is uneven by
itself, so cifar100 is made so), for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall8.cifar100.safetensors", "images/fashion-mnist-8000.npz")
    weights, images = scale.files(*names, full=("resnet50.safetensors", "tfds:cifar100"))
    title = "Imbalance: uneven classes of the target, and batches drawn evenly"
    config = scale.study(title, seeds=scale.pick(5, small=2))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50"), "weights": weights}
    config.target = {
        "data": images,
        "num_images": scale.pick(500, full=10_000),
        "val_per_class": 20,
        "test_per_class": scale.pick(50, full=100),
        "size_px": scale.pick(32, full=224),
    }
    config.training = {
        "optimizer": {"learning_rate": 0.1, "weight_decay": 5e-4},  # the head's rate
        "layers": {"backbone_learning_rate": 0.01},
        "schedule": {"epochs": scale.pick(10.0, small=1.0)},
        "batches": {"size": 32},
    }
    config.factors = [{"target.imbalance": [1.0, 10.0, 50.0], "training.batches.sampling": ["uniform", "balanced"]}]
    return config
