"""Question: which part of pretraining helps: features, the scale of weights, the first blocks, or the initial head?

A small residual network is pretrained on Tiny ImageNet at 32 x 32 pixels. The target has 20 images of each of six
classes of scenes. The initial weights are all source weights, the source weights after one or three epochs, the first
block or the first two ("weight transfusion"), random weights with the mean and standard deviation of each source leaf,
or random weights of the architecture. The head of the pretrained network starts from random weights, zeros, the mean
directions of the classes, or a linear probe, which needs fixed views of each image.

Source: Raghu et al. 2019, "Transfusion", section 5; Neyshabur, Sedghi & Zhang 2020 (earlier checkpoints); Qi, Brown &
Lowe 2018 (class means); Kumar et al. 2022 (linear probe first).
Expected: pretrained weights beat 'mean_var' weights, which are at least as good as random ones. The first blocks give
most of the gain in speed. Earlier checkpoints are worse. A head from class means or a linear probe is better after few
epochs.
Found: not measured yet.
Cost: --dry-run prints an estimate of the time. The study reads images/tiny-imagenet-200.zip and
images/intel-scenes-6.zip, which `jaxft data get` downloads. initialization.py:FOLDER reads them from FOLDER.
initialization.py:small (or small,FOLDER) runs for one or two minutes, which is too short to answer the question.
initialization.py:full has the scale of the publications, for accelerators: imagenet2012 and sun397 from TFDS.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    tiny, full = "images/tiny-imagenet-200.zip", ("tfds:imagenet2012", "tfds:sun397/standard-part1-120k")
    source, target = scale.files(tiny, "images/intel-scenes-6.zip", full=full)
    title = "Initialization of the backbone and of the head"
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
        {"training.initialization.start": ["pretrained", "mean_var", "random"]},
        {"source.epoch": scale.pick([1, 3], small=[1, 2], full=[1, 10])},
        {"training.initialization.transferred_blocks": ["stem", "stage1"]},
        {"training.initialization.head": ["zeros", "class_means"]},
        {"training.augmentation.views": [8]},  # the baseline of the next arm
        {
            "training.linear_probe.epochs": [100.0],
            "training.linear_probe.optimizer": ["lbfgs"],
            "training.augmentation.views": [8],
        },
    ]
    return config
