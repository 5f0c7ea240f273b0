"""Question: what does an imbalanced target cost, and does balanced sampling help?

A residual network for 32 x 32 pixels, pretrained on CIFAR-100, is fine-tuned to the ten classes of Fashion-MNIST with
500 images in total. The classes have equal numbers of images, or numbers that fall by a constant factor from class to
class, with a ratio of 10 or 50 between the largest and the smallest class. The seed draws the order of the classes.
Batches are drawn uniformly from the images, or balanced over the classes. Validation and test images are balanced, so
accuracy is the mean over classes.

Source: Ouyang et al. 2016; Cui et al. 2019, section 5.1 (long-tailed CIFAR with the same formula); Huang et al. 2016.
Expected: accuracy falls as the imbalance rises. At the highest ratio, balanced batches recover some of it.
Found: not measured yet.
Cost: --dry-run prints an estimate of the time. The study reads weights/resnetsmall8.cifar100.safetensors and
images/fashion-mnist-8000.npz, which `jaxft weights get` and `jaxft data get` download. imbalance.py:FOLDER reads them
from FOLDER. imbalance.py:small (or small,FOLDER) runs for one or two minutes, which is too short to answer the
question. imbalance.py:full has the scale of the publications, for accelerators: torchvision's first ImageNet weights of
ResNet-50; an imbalanced draw of cifar100 from TFDS, because inaturalist is imbalanced by itself.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall8.cifar100.safetensors", "images/fashion-mnist-8000.npz")
    weights, images = scale.files(*names, full=("torchvision/resnet50.IMAGENET1K_V1", "tfds:cifar100"))
    title = "Imbalance: imbalanced target classes and balanced batches"
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
        "optimizer": {"learning_rate": 0.1, "weight_decay": 5e-4},  # of the head
        "layers": {"backbone_learning_rate": 0.01},
        "schedule": {"epochs": scale.pick(10.0, small=1.0)},
        "batches": {"size": 32},
    }
    config.factors = [{"target.imbalance": [1.0, 10.0, 50.0], "training.batches.sampling": ["uniform", "balanced"]}]
    return config
