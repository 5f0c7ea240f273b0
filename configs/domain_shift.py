"""Question: how much does pretraining on photographs help for art, cartoons and sketches of the same classes?

A residual network for 32 x 32 pixels, pretrained on the photographs of CIFAR-100 or initialized at random, is trained
on the seven classes of PACS, separately in each of its four domains, with ten images per class. The backbone of the
pretrained network is frozen or has one of two learning rates. The backbone of the random network has one of two
learning rates.

Source: Li, Yang, Song & Hospedales 2017 (PACS); Yosinski et al. 2014; Li et al. 2020, "Rethinking the hyperparameters
for fine-tuning" (the best learning rate grows with the distance from the source).
Expected: the pretrained network beats the random one, most for photographs and least for sketches. A frozen backbone
costs more, the farther the domain is from photographs.
Found: not measured yet.
Cost: --dry-run prints an estimate of the time. The study reads weights/resnetsmall8.cifar100.safetensors and
images/pacs-7x4.zip, which `jaxft weights get` and `jaxft data get` download. domain_shift.py:FOLDER reads them from
FOLDER. domain_shift.py:small (or small,FOLDER) runs for one or two minutes, which is too short to answer the question.
domain_shift.py:full has the scale of the publications, for accelerators: torchvision's first ImageNet weights of
ResNet-50; domainnet from TFDS.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    weights, *images = scale.files(
        *("weights/resnetsmall8.cifar100.safetensors", "images/pacs-7x4.zip"),
        full=(
            "torchvision/resnet50.IMAGENET1K_V1",
            *(f"tfds:domainnet/{name}" for name in ("real", "painting", "clipart", "sketch")),
        ),
    )
    config = scale.study("Domain shift: photographs, art, cartoons and sketches", seeds=scale.pick(5, small=2))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50"), "weights": weights}
    config.target = scale.images(
        images[0], train_per_class=scale.pick(10, full=20), val_per_class=scale.pick(10, full=5)
    )
    config.training = scale.training(learning_rate=0.1, batch_size=scale.pick(14, full=32))  # of the head
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
