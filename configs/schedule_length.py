"""How long does a network have to be trained, until one from scratch is as good as a fine-tuned one?

A residual network for 32 x 32 pixels, trained on CIFAR-100 or started at random, is trained on 20 images of each of six
kinds of scenes for 15, 45, 135 or 405 steps; the rate falls to zero along half a cosine, however long that is.

Source: He, Girshick & Dollar 2019, "Rethinking ImageNet pre-training"; Raghu et al. 2019.
Expected: the pretrained network is good after a short time and gains little from more; the random one gains with every
step of the length and comes nearer. With so few images it does not catch up: in He et al. it does with tens of
thousands, and not with one tenth of them.
Found, test accuracy in percent with 95% intervals over five seeds: pretrained 63.1 +- 3.7, 70.9 +- 2.0, 70.3 +- 1.1 and
70.0 +- 4.0; random 38.1 +- 5.4, 49.7 +- 4.5, 53.4 +- 1.5 and 51.9 +- 2.8. As expected the pretrained one is done after
45 steps, and the gap falls with the length, from 25.0 +- 6.5 points to 16.9 +- 2.0 at 135 steps, and no further.
Data: weights/resnetsmall8.cifar100.safetensors and images/intel-scenes-6.zip, in ../shared/data beside the clone or in
a folder named behind the config, schedule_length.py:FOLDER. About 10 minutes on two cores, in worker processes. Behind
schedule_length.py:small (or small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full is
the scale of the publications (ImageNet's ResNet-50 from the file named in --config.source.weights; TFDS' sun397), for
accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall8.cifar100.safetensors", "images/intel-scenes-6.zip")
    weights, images = scale.files(*names, full=("resnet50.safetensors", "tfds:sun397/standard-part1-120k"))
    config = scale.study("Length of the schedule: pretrained and from scratch", seeds=scale.pick(5, small=2))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50"), "weights": weights}
    config.target = scale.images(images, train_per_class=20, val_per_class=scale.pick(10, full=5))
    config.training = scale.training(learning_rate=0.1, batch_size=scale.pick(30, full=64))  # the head's rate

    lengths = scale.pick([15, 45, 135, 405], small=[6, 18], full=[1500, 5000, 15000, 50000])
    config.factors = [
        {
            "training.initialization.start": [init],
            "training.layers.backbone_learning_rate": [rate],  # about the best of learning_rate.py
            "training.schedule.steps": lengths,
        }
        for init, rate in (("pretrained", 0.001), ("random", 0.1))
    ]
    return config
