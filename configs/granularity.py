"""How fine must the source's classes be, for its images to make a good network to start from?

A small residual network is trained on eight images of each of Tiny ImageNet's 200 classes at 32 x 32 pixels, always the
same for a seed, labelled by their classes or by what is above these at depths 8, 6 and 4 of WordNet; then it is
fine-tuned to Caltech-101's classes from seven images of each. The same network started at random is the comparison. The
body's rate is selected on validation, in every arm by every seed.

Source: Huh, Agrawal & Efros 2016, section 5 (ImageNet's classes merged at depths of WordNet: 127 in place of 1000 cost
2.8 points of mAP on PASCAL-DET).
Expected: merging costs little until few classes are left; the coarsest still beats the random start.
Needs WordNet: pip install 'jaxft[wordnet]'.
Data: images/tiny-imagenet-200.zip and images/caltech-101.zip, in ../shared/data beside the clone or in a folder named
behind the config, granularity.py:FOLDER. --dry-run says how long it takes. Behind granularity.py:small (or
small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full is the scale of the publications
(TFDS' imagenet2012 and caltech101), for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    tiny, full = "images/tiny-imagenet-200.zip", ("tfds:imagenet2012", "tfds:caltech101")
    source, target = scale.files(tiny, "images/caltech-101.zip", full=full)
    config = scale.study("Granularity: source classes merged at depths of WordNet", seeds=scale.pick(5, small=2))
    config.streams = {"source": None}  # the source's own chance is in the intervals
    rates = {"training.layers.backbone_learning_rate": scale.pick([0.01, 0.1], small=[0.01])}
    config.source = {
        "model": scale.pick("cifar_resnet8", full="resnet18"),
        "images": scale.images(source, train_per_class=scale.pick(8, full=1000), tested=False),
        "training": scale.source_training(epochs=scale.pick(20.0, small=2.0, full=90.0), batch_size=50),
    }
    config.target = scale.images(target, train_per_class=scale.pick(7, full=24), val_per_class=scale.pick(3, full=6))
    config.training = scale.training(learning_rate=0.1, batch_size=32)  # the head's rate
    config.training.schedule = {"epochs": scale.pick(12.0, small=2.0)}

    config.factors = [
        {"source.images.wordnet_depth": [None, 8, 6, 4], "training.initialization.start": ["pretrained"], **rates},
        {"training.initialization.start": ["random"], **rates},
    ]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
