"""Is a network a better start, the nearer its source categories are to those of the target?

A small residual network is trained on 40 classes of Tiny ImageNet at 32 x 32 pixels, 20 images of each: those nearest
to 25 animals of Caltech-101 by the similarity of Wu and Palmer between their names in WordNet, those farthest, or 40
drawn by each seed. It is fine-tuned to the animals from seven images of each. The same network started at random is the
comparison. The body's rate is selected on validation, in every arm by every seed.

Source: Li, Herranz & Jiang 2020; Yosinski et al. 2014, section 4.2 (natural and man-made halves of ImageNet); Cui et
al. 2018. By --config.source.images.similarity.by=features and similarity.weights=FILE it is the distance between class
means of a network's features instead.
Expected: nearest beats random, random beats farthest, and all beat the random start.
Needs WordNet: pip install 'jaxft[wordnet]'.
Data: images/tiny-imagenet-200.zip and images/caltech-101.zip, in ../shared/data beside the clone or in a folder named
behind the config, source_similarity.py:FOLDER. --dry-run says how long it takes. Behind source_similarity.py:small (or
small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full is the scale of the publications
(TFDS' imagenet2012 and caltech101), for accelerators.
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
    config = scale.study("Source categories: nearest to the target, drawn, or farthest", seeds=scale.pick(5, small=2))
    config.streams = {"source": None}  # the source's own chance is in the intervals
    rates = {"training.layers.backbone_learning_rate": scale.pick([0.01, 0.1], small=[0.01])}
    config.source = {
        "model": scale.pick("cifar_resnet8", full="resnet18"),
        "images": scale.images(
            source, num_classes=scale.pick(40, full=100), train_per_class=scale.pick(20, full=1000), tested=False
        ),
        "training": scale.source_training(epochs=scale.pick(30.0, small=3.0, full=90.0), batch_size=50),
    }
    config.target = scale.images(target, train_per_class=scale.pick(7, full=24), val_per_class=scale.pick(3, full=6))
    config.training = scale.training(learning_rate=0.1, batch_size=32)  # the head's rate
    config.training.schedule = {"epochs": scale.pick(12.0, small=2.0)}

    config.target.classes = ANIMALS
    choices = ["nearest", "random", "farthest"]
    config.factors = [
        {"source.images.class_choice": choices, "training.initialization.start": ["pretrained"], **rates},
        {"training.initialization.start": ["random"], **rates},
    ]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
