"""Question: how many target images does a network from scratch need to match a fine-tuned one?

A residual network for 32 x 32 pixels, pretrained on CIFAR-100 or initialized at random, is trained on 5, 10, 20 or 50
images of each of six classes of scenes, always for the same number of steps. In every arm, each seed selects the
learning rate of the backbone on validation. Training images are nested, and validation and test images are the same in
all arms.

Source: Agrawal, Girshick & Malik 2014; Azizpour et al. 2016; He, Girshick & Dollar 2019; Li, Herranz & Jiang 2020.
Expected: accuracy rises with the number of images, with diminishing returns. The pretrained network is better, by less
the more images there are.
Found: test accuracy in percent with 95% intervals over five seeds, for 5, 10, 20 and 50 images per class (jaxft study
--config=configs/target_images.py --workdir=DIR):
- pretrained: 61.2 +- 6.2, 65.8 +- 1.8, 71.2 +- 0.8, 73.8 +- 3.9;
- random: 39.0 +- 7.8, 48.5 +- 3.1, 52.4 +- 2.0, 58.4 +- 3.4.
- Conclusion: random initialization needs 50 images per class to match the pretrained network with 5, and the gap falls
  from 22 to 15 points.
Cost: about 20 minutes on two busy cores. The study reads weights/resnetsmall8.cifar100.safetensors and
images/intel-scenes-6.zip, which `jaxft weights get` and `jaxft data get` download. target_images.py:FOLDER reads them
from FOLDER. target_images.py:small (or small,FOLDER) runs for one or two minutes, which is too short to answer the
question. target_images.py:full has the scale of the publications, for accelerators: torchvision's first ImageNet
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
    config = scale.study("Target images: pretrained and from scratch, by number", seeds=scale.pick(5, small=2))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50"), "weights": weights}
    config.target = scale.images(images, val_per_class=scale.pick(10, full=5))
    config.training = scale.training(learning_rate=0.1, batch_size=scale.pick(30, full=64))  # of the head

    # Every arm trains for the same number of images; small training sets repeat more often.
    num_classes, counts = scale.pick(6, full=397), [5, 10, 20, 50]
    images_seen = scale.pick(3_600, small=600, full=2_000_000)
    pretrained_rates, random_rates = scale.pick(([0.001, 0.01], [0.01, 0.1]), small=([0.003], [0.03]))
    config.factors = [
        {
            "target.train_per_class": [count],
            "training.schedule.epochs": [images_seen / (num_classes * count)],
            "training.initialization.start": [init],
            "training.layers.backbone_learning_rate": rates,
        }
        for init, rates in (("pretrained", pretrained_rates), ("random", random_rates))
        for count in counts
    ]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
