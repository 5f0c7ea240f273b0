"""How many images of each source category does a network need, to be a good start for other classes?

A small residual network is trained on 5, 10 or 20 images of each of Tiny ImageNet's 200 classes at 32 x 32 pixels, for
as many steps whatever their number, and fine-tuned to Caltech-101's classes from seven images of each. The same network
started at random is the comparison. The body's rate is selected on validation, in every arm by every seed; each seed
draws its own source images, of which the fewer lie within the more, and the same target images in all arms.

Source: Huh, Agrawal & Efros 2016, section 4 (half the images of each class cost 1.5 points of mAP on PASCAL-DET);
Azizpour et al. 2016; Li, Herranz & Jiang 2020.
Expected: more images of each category help, with diminishing returns; all beat the random start.
Data: images/tiny-imagenet-200.zip and images/caltech-101.zip, in ../shared/data beside the clone or in a folder named
behind the config, source_images.py:FOLDER. --dry-run says how long it takes. Behind source_images.py:small (or
small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full is the scale of the publications
(TFDS' imagenet2012 and caltech101), for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import study_data


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    size, files = study_data(arg, __file__, "images/tiny-imagenet-200.zip", "images/caltech-101.zip")
    full = size == "full"
    source, target = files or ("tfds:imagenet2012", "tfds:caltech101")

    config = ConfigDict()
    config.title = "Source images: how many of each category"
    config.seeds = 2 if size == "small" else 5
    config.streams = {"source": None}  # the source's own chance is in the intervals

    config.source = ConfigDict()
    config.source.model = "resnet18" if full else "cifar_resnet8"
    config.source.images = {
        "data": source,
        "train_per_class": 1000 if full else 20,
        "size_px": 256 if full else 32,
        "tested": False,
    }
    config.source.training = {
        "optimizer": {"learning_rate": 0.1, "weight_decay": 1e-4 if full else 5e-4},
        "schedule": {"epochs": 10.0},
        "batches": {"size": 256 if full else 50},
        "augmentation": {
            "flip": {"enabled": True},
            "crop": {"size_px": 224, "scale_min": 0.08} if full else {"padding_px": 4},
        },
        "selection": {"weights": "last"},
    }

    config.target = {
        "data": target,
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
    images_seen = 115_000_000 if full else 4_000 if size == "small" else 30_000
    classes, counts = (1000, [60, 125, 250, 500, 1000]) if full else (200, [5, 10, 20])
    config.factors = [
        *(
            {
                "source.images.train_per_class": [count],
                "source.training.schedule.epochs": [images_seen / (classes * count)],
                "training.initialization.start": ["pretrained"],
                "training.layers.backbone_learning_rate": rates,
            }
            for count in counts
        ),
        {"training.initialization.start": ["random"], "training.layers.backbone_learning_rate": rates},
    ]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
