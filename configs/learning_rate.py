"""Which learning rate does the body of a network need, fine-tuned or from scratch?

A residual network for 32 x 32 pixels, trained on CIFAR-100 or started at random, is trained on 20 images of each of six
kinds of scenes, everything below the head frozen or at one of seven rates. The head's rate is the same throughout.

Source: Li, Herranz & Jiang 2020 (the initial rate of the fine-tuned body); Li et al. 2020, "Rethinking the
hyperparameters for fine-tuning"; Kornblith, Shlens & Le 2019.
Expected: accuracy rises with the rate and falls again; the best rate of the pretrained body is lower than that of the
random one, which too low a rate leaves untrained; pretrained is ahead at every rate, and by least at the highest.
Found, test accuracy in percent with 95% intervals over five seeds, frozen and from 0.0003 to 0.3: pretrained 72.1 +-
2.1, 70.5 +- 2.6, 71.0 +- 0.9, 68.8 +- 3.1, 64.1 +- 4.1, 54.9 +- 6.2, 49.0 +- 8.1, 38.7 +- 14.8; random 40.3 +- 3.4,
47.5 +- 2.5, 49.5 +- 3.4, 50.1 +- 2.9, 51.1 +- 3.0, 51.2 +- 1.9, 50.6 +- 2.9, 51.3 +- 2.2. So the best rate is the lower
one for the pretrained body, and with 20 images a class no rate is better than to leave it frozen; the random one hardly
minds from 0.001 on. Pretrained is ahead up to 0.01; from 0.03 on intervals meet, and at 0.3 its mean is the lower one,
which is not what was expected: large steps lose all that was pretrained.
Data: weights/resnetsmall8.cifar100.safetensors and images/intel-scenes-6.zip, in ../shared/data beside the clone or in
a folder named behind the config, learning_rate.py:FOLDER. About 7 minutes on two cores, in worker processes. Behind
learning_rate.py:small (or small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full is the
scale of the publications (ImageNet's ResNet-50 from the file named in --config.source.weights; TFDS' sun397), for
accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall8.cifar100.safetensors", "images/intel-scenes-6.zip")
    weights, images = scale.files(*names, full=("resnet50.safetensors", "tfds:sun397/standard-part1-120k"))
    config = scale.study("Learning rate of the body: pretrained and from scratch", seeds=scale.pick(5, small=2))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50"), "weights": weights}
    config.target = scale.images(images, train_per_class=20, val_per_class=scale.pick(10, full=5))
    config.training = scale.training(learning_rate=0.1, batch_size=scale.pick(30, full=64))  # the head's rate
    config.training.schedule = {"epochs": scale.pick(25.0, small=4.0)}

    rates = scale.pick(["frozen", 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3], small=[0.01, 0.1])
    config.factors = [
        {
            "training.initialization.start": ["pretrained", "random"],
            "training.layers.backbone_learning_rate": rates,
        }
    ]
    return config
