"""Question: is a network a better start if its source classes are more similar to the target classes?

A small residual network is pretrained on 40 classes of Tiny ImageNet at 32 x 32 pixels with 20 images per class. These
are the classes nearest to 25 animals of Caltech-101, by the Wu-Palmer similarity of their names in WordNet, the
farthest ones, or 40 random classes for each seed. The network is then fine-tuned to the animals with seven images per
class. The baseline is the same network with random initialization. In every arm, each seed selects the learning rate of
the backbone on validation.

Source: Li, Herranz & Jiang 2020; Yosinski et al. 2014, section 4.2 (natural and man-made halves of ImageNet); Cui et
al. 2018. With --config.source.images.similarity.by=features and similarity.weights=FILE, similarity is the distance
between the class means of the features of a network.
Expected: nearest beats random classes, random beats farthest, and all beat random initialization.
Found: not measured yet.
Cost: --dry-run prints an estimate of the time. The study needs WordNet: pip install 'jaxft[wordnet]'. The study reads
images/tiny-imagenet-200.zip and images/caltech-101.zip, which `jaxft data get` downloads. source_similarity.py:FOLDER
reads them from FOLDER. source_similarity.py:small (or small,FOLDER) runs for one or two minutes, which is too short to
answer the question. source_similarity.py:full has the scale of the publications, for accelerators: imagenet2012 and
caltech101 from TFDS.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale

ANIMALS = (
    *("ant", "beaver", "butterfly", "crab", "crayfish", "crocodile", "dalmatian", "dolphin", "dragonfly", "elephant"),
    *("emu", "flamingo", "gerenuk", "hedgehog", "ibis", "kangaroo", "llama", "lobster", "okapi", "panda", "pigeon"),
    *("platypus", "rhino", "rooster", "scorpion"),
)


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    tiny, full = "images/tiny-imagenet-200.zip", ("tfds:imagenet2012", "tfds:caltech101")
    source, target = scale.files(tiny, "images/caltech-101.zip", full=full)
    config = scale.study("Source classes: nearest to the target, random, or farthest", seeds=scale.pick(5, small=2))
    config.streams = {"source": None}  # the intervals include the variation from pretraining
    rates = {"training.layers.backbone_learning_rate": scale.pick([0.01, 0.1], small=[0.01])}
    config.source = {
        "model": scale.pick("cifar_resnet8", full="resnet18"),
        "images": scale.images(
            source, num_classes=scale.pick(40, full=100), train_per_class=scale.pick(20, full=1000), tested=False
        ),
        "training": scale.source_training(epochs=scale.pick(30.0, small=3.0, full=90.0), batch_size=50),
    }
    config.target = scale.images(target, train_per_class=scale.pick(7, full=24), val_per_class=scale.pick(3, full=6))
    config.training = scale.training(learning_rate=0.1, batch_size=32)  # of the head
    config.training.schedule = {"epochs": scale.pick(12.0, small=2.0)}

    config.target.classes = ANIMALS
    choices = ["nearest", "random", "farthest"]
    config.factors = [
        {"source.images.class_choice": choices, "training.initialization.start": ["pretrained"], **rates},
        {"training.initialization.start": ["random"], **rates},
    ]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
