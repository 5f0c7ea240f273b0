"""How much is a network that knows photographs worth for art, cartoons and sketches of the same things?

A residual network for 32 x 32 pixels, trained on the photographs of CIFAR-100, or started at random, is trained to tell
PACS' seven classes apart, in each of its four domains, from ten pictures of each class. The body of the pretrained one
is frozen, or moves at one of two rates; that of the random one moves at one of two.

Source: Li, Yang, Song & Hospedales 2017 (PACS); Yosinski et al. 2014; Li et al. 2020, "Rethinking the hyperparameters
for fine-tuning" (the best rate grows with the distance from the source).
Expected: the pretrained network is ahead of the random one, the most in photographs and the least in sketches; a frozen
body costs the more, the farther the domain is from photographs.
Data: weights/resnetsmall8.cifar100.safetensors and images/pacs-7x4.zip, in ../shared/data beside the clone or in a
folder named behind the config, domain_shift.py:FOLDER. --dry-run says how long it takes. Behind domain_shift.py:small
(or small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full is the scale of the
publications (ImageNet's ResNet-50 from the file named in --config.source.weights; TFDS' domainnet), for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import study_data


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    size, files = study_data(arg, __file__, "weights/resnetsmall8.cifar100.safetensors", "images/pacs-7x4.zip")
    full = size == "full"
    weights, images = files or ("resnet50.safetensors", "")

    config = ConfigDict()
    config.title = "Domain shift: photographs, art, cartoons and sketches"
    config.seeds = 2 if size == "small" else 5

    config.source = {"model": "resnet50" if full else "resnetsmall8", "weights": weights}
    config.target = {
        "train_per_class": 20 if full else 10,
        "val_per_class": 5 if full else 10,
        "size_px": 256 if full else 32,
    }
    config.training = {
        "optimizer": {
            "learning_rate": 0.1,  # the head's
            "weight_decay": 5e-4,
        },
        "schedule": {"epochs": 2.0 if size == "small" else 30.0},
        "batches": {"size": 32 if full else 14},
        "augmentation": {
            "flip": {"enabled": True},
            "crop": {"size_px": 224, "scale_min": 0.3} if full else {"padding_px": 4},
        },
    }

    if full:
        domains = {"target.data": [f"tfds:domainnet/{name}" for name in ("real", "painting", "clipart", "sketch")]}
    else:
        config.target.data = images
        domains = {"target.domain": ["photo", "art_painting", "cartoon", "sketch"]}
    rates = ["frozen", 0.003] if size == "small" else ["frozen", 0.001, 0.01]
    config.factors = [
        {**domains, "training.initialization.start": ["pretrained"], "training.layers.backbone_learning_rate": rates},
        {
            **domains,
            "training.initialization.start": ["random"],
            "training.layers.backbone_learning_rate": [0.03] if size == "small" else [0.01, 0.1],
        },
    ]
    return config
