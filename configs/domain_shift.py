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

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    weights, *images = scale.files(
        *("weights/resnetsmall8.cifar100.safetensors", "images/pacs-7x4.zip"),
        full=(
            "resnet50.safetensors",
            *(f"tfds:domainnet/{name}" for name in ("real", "painting", "clipart", "sketch")),
        ),
    )
    config = scale.study("Domain shift: photographs, art, cartoons and sketches", seeds=scale.pick(5, small=2))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50"), "weights": weights}
    config.target = scale.images(
        images[0], train_per_class=scale.pick(10, full=20), val_per_class=scale.pick(10, full=5)
    )
    config.training = scale.training(learning_rate=0.1, batch_size=scale.pick(14, full=32))  # the head's rate
    config.training.schedule = {"epochs": scale.pick(30.0, small=2.0)}

    domains = {"target.domain": ["photo", "art_painting", "cartoon", "sketch"]}
    if scale.is_full:
        domains = {"target.data": images}
    rates = scale.pick(["frozen", 0.001, 0.01], small=["frozen", 0.003])
    config.factors = [
        {**domains, "training.initialization.start": ["pretrained"], "training.layers.backbone_learning_rate": rates},
        {
            **domains,
            "training.initialization.start": ["random"],
            "training.layers.backbone_learning_rate": scale.pick([0.01, 0.1], small=[0.03]),
        },
    ]
    return config
