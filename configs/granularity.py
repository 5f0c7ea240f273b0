"""Question: how fine must the source classes be, to pretrain a good network?

A small residual network is pretrained on eight images of each of the 200 classes of Tiny ImageNet at 32 x 32 pixels.
For each seed, the images are the same in all arms. Their labels are the original classes, or their ancestors at depth
8, 6 or 4 of WordNet. The network is then fine-tuned to the classes of Caltech-101 with seven images per class. The
baseline is the same network with random initialization. In every arm, each seed selects the learning rate of the
backbone on validation.

Source: Huh, Agrawal & Efros 2016, section 5 (ImageNet classes merged at depths of WordNet: 127 instead of 1000 classes
cost 2.8 points of mAP on PASCAL-DET).
Expected: merging classes costs little until few classes are left. The coarsest labels still beat random initialization.
Found: not measured yet.
Cost: --dry-run prints an estimate of the time. The study needs WordNet: pip install 'jaxft[wordnet]'. The study reads
images/tiny-imagenet-200.zip and images/caltech-101.zip, which `jaxft data get` downloads. granularity.py:FOLDER reads
them from FOLDER. granularity.py:small (or small,FOLDER) runs for one or two minutes, which is too short to answer the
question. granularity.py:full has the scale of the publications, for accelerators: imagenet2012 and caltech101 from
TFDS.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    tiny, full = "images/tiny-imagenet-200.zip", ("tfds:imagenet2012", "tfds:caltech101")
    source, target = scale.files(tiny, "images/caltech-101.zip", full=full)
    config = scale.study("Granularity: source classes merged at depths of WordNet", seeds=scale.pick(5, small=2))
    config.streams = {"source": None}  # the intervals include the variation from pretraining
    rates = {"training.layers.backbone_learning_rate": scale.pick([0.01, 0.1], small=[0.01])}
    config.source = {
        "model": scale.pick("cifar_resnet8", full="resnet18"),
        "images": scale.images(source, train_per_class=scale.pick(8, full=1000), tested=False),
        "training": scale.source_training(epochs=scale.pick(20.0, small=2.0, full=90.0), batch_size=50),
    }
    config.target = scale.images(target, train_per_class=scale.pick(7, full=24), val_per_class=scale.pick(3, full=6))
    config.training = scale.training(learning_rate=0.1, batch_size=32)  # of the head
    config.training.schedule = {"epochs": scale.pick(12.0, small=2.0)}

    config.factors = [
        {"source.images.wordnet_depth": [None, 8, 6, 4], "training.initialization.start": ["pretrained"], **rates},
        {"training.initialization.start": ["random"], **rates},
    ]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
