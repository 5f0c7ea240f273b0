"""What of a pretrained network helps: its features, the scale of its weights, its first units, or its head's start?

A small residual network is trained on Tiny ImageNet at 32 x 32 pixels, and the target is 20 images of each of six
kinds of scenes. It starts from all of the source's weights, from those after one and three passes, from its first unit
or its first two ("weight transfusion"), from random weights with the mean and deviation of each leaf of the source's,
or from the architecture's own; the head of the pretrained network is drawn, zero, the classes' mean directions, or a
linear probe, which asks for fixed views of each image.

Source: Raghu et al. 2019, "Transfusion", section 5; Neyshabur, Sedghi & Zhang 2020 (earlier checkpoints); Qi, Brown &
Lowe 2018 (class means); Kumar et al. 2022 (a probe first).
Expected: pretrained beats matched, which is at least as good as random; the first units bring most of the gain in
speed; earlier checkpoints are worse; a head that begins at class means or a probe is ahead after few passes.
Data: images/tiny-imagenet-200.zip and images/intel-scenes-6.zip, in ../shared/data beside the clone or in a folder
named behind the config, initialization.py:FOLDER. --dry-run says how long it takes. Behind initialization.py:small (or
small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full is the scale of the publications
(TFDS' imagenet2012 and sun397), for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    tiny, full = "images/tiny-imagenet-200.zip", ("tfds:imagenet2012", "tfds:sun397/standard-part1-120k")
    source, target = scale.files(tiny, "images/intel-scenes-6.zip", full=full)
    title = "Initialization: pretrained, matched, transfused, earlier, random; and the head's start"
    config = scale.study(title, seeds=scale.pick(5, small=2))
    fewer = scale.pick({}, small={"num_classes": 20, "train_per_class": 20})
    config.source = {
        "model": scale.pick("cifar_resnet8", full="resnet50"),
        "images": scale.images(source, tested=False, **fewer),
        "training": scale.source_training(epochs=scale.pick(12.0, small=3.0, full=90.0), batch_size=50),
    }
    config.target = scale.images(target, train_per_class=20, val_per_class=scale.pick(10, full=5))
    config.training = scale.training(learning_rate=0.05, batch_size=scale.pick(30, full=64))
    config.training.schedule = {"epochs": scale.pick(15.0, small=1.0, full=30.0)}

    config.factors = [
        {"training.initialization.start": ["pretrained", "matched", "random"]},
        {"source.epoch": scale.pick([1, 3], small=[1, 2], full=[1, 10])},
        {"training.initialization.copied_units": ["stem", "stage1"]},
        {"training.initialization.head": ["zeros", "class_means"]},
        {"training.augmentation.views": [8]},  # what the next arm is to be compared with
        {
            "training.linear_probe.epochs": [100.0],
            "training.linear_probe.optimizer": ["lbfgs"],
            "training.augmentation.views": [8],
        },
    ]
    return config
