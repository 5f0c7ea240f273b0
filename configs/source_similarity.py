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

from jaxft.config import study_data

ANIMALS = (
    *("ant", "beaver", "butterfly", "crab", "crayfish", "crocodile", "dalmatian", "dolphin", "dragonfly", "elephant"),
    *("emu", "flamingo", "gerenuk", "hedgehog", "ibis", "kangaroo", "llama", "lobster", "okapi", "panda", "pigeon"),
    *("platypus", "rhino", "rooster", "scorpion"),
)


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    size, files = study_data(arg, __file__, "images/tiny-imagenet-200.zip", "images/caltech-101.zip")
    full = size == "full"
    source, target = files or ("tfds:imagenet2012", "tfds:caltech101")

    config = ConfigDict()
    config.title = "Source categories: nearest to the target, drawn, or farthest"
    config.seeds = 2 if size == "small" else 5
    config.streams = {"source": None}  # the source's own chance is in the intervals

    config.source = ConfigDict()
    config.source.model = "resnet18" if full else "cifar_resnet8"
    config.source.images = {
        "data": source,
        "num_classes": 100 if full else 40,
        "train_per_class": 1000 if full else 20,
        "size_px": 256 if full else 32,
        "tested": False,
    }
    config.source.training = {
        "optimizer": {"learning_rate": 0.1, "weight_decay": 1e-4 if full else 5e-4},
        "schedule": {"epochs": 90.0 if full else 3.0 if size == "small" else 30.0},
        "batches": {"size": 256 if full else 50},
        "augmentation": {
            "flip": {"enabled": True},
            "crop": {"size_px": 224, "scale_min": 0.08} if full else {"padding_px": 4},
        },
        "selection": {"weights": "last"},
    }

    config.target = {
        "data": target,
        "classes": ANIMALS,
        "train_per_class": 24 if full else 7,
        "val_per_class": 6 if full else 3,
        "size_px": 256 if full else 32,
    }
    config.training = {
        "optimizer": {
            "learning_rate": 0.1,  # the head's
            "weight_decay": 5e-4,
        },
        "schedule": {"epochs": 2.0 if size == "small" else 12.0},
        "batches": {"size": 32},
        "augmentation": {
            "flip": {"enabled": True},
            "crop": {"size_px": 224, "scale_min": 0.3} if full else {"padding_px": 4},
        },
    }

    rates = [0.01] if size == "small" else [0.01, 0.1]
    config.factors = [
        {
            "source.images.class_choice": ["nearest", "random", "farthest"],
            "training.initialization.start": ["pretrained"],
            "training.layers.backbone_learning_rate": rates,
        },
        {"training.initialization.start": ["random"], "training.layers.backbone_learning_rate": rates},
    ]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
