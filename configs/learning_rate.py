"""Question: which learning rate does the backbone need, fine-tuned or trained from scratch?

A residual network for 32 x 32 pixels, pretrained on CIFAR-100 or initialized at random, is trained on 20 images of each
of six classes of scenes. The backbone is frozen or has one of seven learning rates. The learning rate of the head is
always the same.

Source: Li, Herranz & Jiang 2020 (initial learning rate of the fine-tuned backbone); Li et al. 2020, "Rethinking the
hyperparameters for fine-tuning"; Kornblith, Shlens & Le 2019.
Expected: accuracy rises with the learning rate and then falls. The best learning rate of the pretrained backbone is
lower than that of the random one, which stays untrained at low rates. The pretrained network is better at every
learning rate, least at the highest.
Found: test accuracy in percent with 95% intervals over five seeds, for a frozen backbone and for learning rates from
0.0003 to 0.3 (jaxft study --config=configs/learning_rate.py --workdir=DIR):
- pretrained: 72.1 +- 2.1, 70.5 +- 2.6, 71.0 +- 0.9, 68.8 +- 3.1, 64.1 +- 4.1, 54.9 +- 6.2, 49.0 +- 8.1, 38.7 +- 14.8;
- random: 40.3 +- 3.4, 47.5 +- 2.5, 49.5 +- 3.4, 50.1 +- 2.9, 51.1 +- 3.0, 51.2 +- 1.9, 50.6 +- 2.9, 51.3 +- 2.2.
- Conclusion: the best learning rate of the pretrained backbone is lower, and with 20 images per class no learning rate
  beats freezing. The random network varies little from 0.001 on. The pretrained network is better up to 0.01, and the
  intervals overlap from 0.03 on. At 0.3, its mean is unexpectedly lower: large steps destroy the pretrained weights.
Cost: about 7 minutes on two cores, with worker processes. The study reads weights/resnetsmall8.cifar100.safetensors and
images/intel-scenes-6.zip, which `jaxft weights get` and `jaxft data get` download. learning_rate.py:FOLDER reads them
from FOLDER. learning_rate.py:small (or small,FOLDER) runs for one or two minutes, which is too short to answer the
question. learning_rate.py:full has the scale of the publications, for accelerators: torchvision's first ImageNet
weights of ResNet-50; sun397 from TFDS.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall8.cifar100.safetensors", "images/intel-scenes-6.zip")
    weights, images = scale.files(
        *names, full=("torchvision/resnet50.IMAGENET1K_V1", "tfds:sun397/standard-part1-120k")
    )
    config = scale.study("Learning rate of the backbone: pretrained and from scratch", seeds=scale.pick(5, small=2))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50"), "weights": weights}
    config.target = scale.images(images, train_per_class=20, val_per_class=scale.pick(10, full=5))
    config.training = scale.training(learning_rate=0.1, batch_size=scale.pick(30, full=64))  # of the head
    config.training.schedule = {"epochs": scale.pick(25.0, small=4.0)}

    rates = scale.pick(["frozen", 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3], small=[0.01, 0.1])
    config.factors = [
        {
            "training.initialization.start": ["pretrained", "random"],
            "training.layers.backbone_learning_rate": rates,
        }
    ]
    return config
