"""Question: how long must a network train from scratch to match a fine-tuned one?

A residual network for 32 x 32 pixels, pretrained on CIFAR-100 or initialized at random, is trained on 20 images of each
of six classes of scenes for 15, 45, 135 or 405 steps. The learning rate follows a cosine to zero over the whole length.

Source: He, Girshick & Dollar 2019, "Rethinking ImageNet pre-training"; Raghu et al. 2019.
Expected: the pretrained network is good after a short time and gains little from more. The random network gains with
every length and comes closer. With so few images it does not catch up: in He et al., it does with tens of thousands of
images, but not with a tenth of them.
Found: test accuracy in percent with 95% intervals over five seeds, for 15, 45, 135 and 405 steps (jaxft study
--config=configs/schedule_length.py --workdir=DIR):
- pretrained: 63.1 +- 3.7, 70.9 +- 2.0, 70.3 +- 1.1, 70.0 +- 4.0;
- random: 38.1 +- 5.4, 49.7 +- 4.5, 53.4 +- 1.5, 51.9 +- 2.8.
- Conclusion: as expected, the pretrained network gains nothing after 45 steps. The gap falls from 25.0 +- 6.5 points at
  15 steps to 16.9 +- 2.0 points at 135 steps, and no further.
Cost: about 10 minutes on two cores, with worker processes. The study reads weights/resnetsmall8.cifar100.safetensors
and images/intel-scenes-6.zip, which `jaxft weights get` and `jaxft data get` download. schedule_length.py:FOLDER reads
them from FOLDER. schedule_length.py:small (or small,FOLDER) runs for one or two minutes, which is too short to answer
the question. schedule_length.py:full has the scale of the publications, for accelerators: torchvision's first ImageNet
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
    config = scale.study("Schedule length: pretrained and from scratch", seeds=scale.pick(5, small=2))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50"), "weights": weights}
    config.target = scale.images(images, train_per_class=20, val_per_class=scale.pick(10, full=5))
    config.training = scale.training(learning_rate=0.1, batch_size=scale.pick(30, full=64))  # of the head

    lengths = scale.pick([15, 45, 135, 405], small=[6, 18], full=[1500, 5000, 15000, 50000])
    config.factors = [
        {
            "training.initialization.start": [init],
            "training.layers.backbone_learning_rate": [rate],  # close to the best of learning_rate.py
            "training.schedule.steps": lengths,
        }
        for init, rate in (("pretrained", 0.001), ("random", 0.1))
    ]
    return config
