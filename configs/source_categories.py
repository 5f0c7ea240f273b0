"""Of a fixed number of source images, do more categories or more images of each make a better network to start from?

A small residual network is trained on 800 images of Tiny ImageNet at 32 x 32 pixels, which are 20 images each of 40
classes, 10 of 80 or 4 of 200, and fine-tuned to Caltech-101's classes from seven images of each. The same network
started at random is the comparison. The body's rate is selected on validation, in every arm by every seed; each seed
draws its own source classes and images, trains its own source, and draws the same target images in all arms.

Source: Huh, Agrawal & Efros 2016, section 5 (more classes or more examples); Li, Herranz & Jiang 2020.
Expected: all beat the random start; more categories help more than more images of each, with diminishing returns. Of
800 images the differences may lie within the intervals.
Found, test accuracy in percent with 95% intervals over five seeds: 40 classes 12.4 +- 1.8, 80 13.5 +- 0.7, 200
12.1 +- 2.2, random 9.1 +- 1.2. All beat the random start (p <= 0.026, Holm); how the 800 images are spread makes no
difference that five seeds show.
Data: images/tiny-imagenet-200.zip and images/caltech-101.zip, in ../shared/data beside the clone or in a folder named
behind the config, source_categories.py:FOLDER. About 12 minutes on two cores, in worker processes. Behind
source_categories.py:small (or small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full
is the scale of the publications (TFDS' imagenet2012 and caltech101), for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    tiny, full = "images/tiny-imagenet-200.zip", ("tfds:imagenet2012", "tfds:caltech101")
    source, target = scale.files(tiny, "images/caltech-101.zip", full=full)
    config = scale.study("Source categories: few with many images, or many with few", seeds=scale.pick(5, small=2))
    config.streams = {"source": None}  # the source's own chance is in the intervals
    rates = {"training.layers.backbone_learning_rate": scale.pick([0.01, 0.1], small=[0.01])}
    config.source = {
        "model": scale.pick("cifar_resnet8", full="resnet18"),
        "images": scale.images(source, num_images=scale.pick(800, full=127_000), tested=False),
        "training": scale.source_training(epochs=scale.pick(30.0, small=3.0, full=90.0), batch_size=50),
    }
    config.target = scale.images(target, train_per_class=scale.pick(7, full=24), val_per_class=scale.pick(3, full=6))
    config.training = scale.training(learning_rate=0.1, batch_size=32)  # the head's rate
    config.training.schedule = {"epochs": scale.pick(12.0, small=2.0)}

    config.factors = [
        {
            "source.images.num_classes": scale.pick([40, 80, 200], full=[127, 250, 500, 1000]),
            "training.initialization.start": ["pretrained"],
            **rates,
        },
        {"training.initialization.start": ["random"], **rates},
    ]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
