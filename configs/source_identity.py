"""Question: which source is better for objects, and which for scenes: CIFAR-10, CIFAR-100, or none?

Residual networks of one architecture for 32 x 32 pixels, pretrained on CIFAR-10, on CIFAR-100, or not at all, are
fine-tuned to objects (Caltech-101) and to scenes (the six Intel classes) with seven images per class. In every arm,
each seed selects the learning rate of the backbone on validation. Seeds draw the same images in all arms.

Source: Li, Herranz & Jiang 2020; Zhou et al. 2017 (object-centric and scene-centric sources).
Expected: both sources beat random initialization on both targets. CIFAR-100, with more classes and some scenes among
them, beats CIFAR-10. At the full scale, the object-centric source is better for objects, and the scene-centric one for
scenes.
Found: test accuracy in percent with 95% intervals over five seeds (jaxft study --config=configs/source_identity.py
--workdir=DIR):
- objects: CIFAR-100 52.4 +- 1.4, CIFAR-10 47.1 +- 1.3, none 15.6 +- 1.8;
- scenes: CIFAR-100 61.7 +- 6.2, CIFAR-10 56.0 +- 5.2, none 35.2 +- 2.6.
- Conclusion: both sources beat random initialization on both targets (p <= 0.005, Holm). CIFAR-100 is better on
  objects, by 5.3 +- 2.0 points. On scenes the interval includes zero (5.7 +- 7.4 points).
Cost: about 7 minutes on two cores, with worker processes. The study reads
weights/resnetsmall8.{cifar10,cifar100}.safetensors, images/caltech-101.zip and images/intel-scenes-6.zip, which `jaxft
weights get` and `jaxft data get` download. source_identity.py:FOLDER reads them from FOLDER. source_identity.py:small
(or small,FOLDER) runs for one or two minutes, which is too short to answer the question. source_identity.py:full has
the scale of the publications, for accelerators: ImageNet, Places or both as the source; caltech101 and sun397 from
TFDS.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    *sources, objects, scenes = scale.files(
        *(f"weights/resnetsmall8.{source}.safetensors" for source in ("cifar10", "cifar100")),
        *("images/caltech-101.zip", "images/intel-scenes-6.zip"),
        full=("tfds:imagenet2012", "tfds:places365_small", "tfds:caltech101", "tfds:sun397/standard-part1-120k"),
    )
    title = "Source data: objects and scenes from CIFAR-10, CIFAR-100 and scratch"
    config = scale.study(title, seeds=scale.pick(5, small=2))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50")}
    origin = {"source.weights": sources}
    if scale.is_full:
        config.source.training = scale.source_training(epochs=90.0, batch_size=256)
        imagenet, places = (scale.images(source, tested=False) for source in sources)
        origin = {"source.images": [imagenet, places, imagenet | {"union": sources[1:]}]}

    config.target = {
        "train_per_class": scale.pick(7, full=20),
        "val_per_class": scale.pick(3, full=5),
        "size_px": scale.size_px,
    }
    config.training = scale.training(learning_rate=0.1, batch_size=32)  # of the head
    config.training.schedule = {"epochs": scale.pick(12.0, small=2.0)}

    targets = [objects, scenes]
    pretrained_rates, random_rates = scale.pick(([0.001, 0.01], [0.01, 0.1]), small=([0.003], [0.03]))
    config.factors = [
        {
            "target.data": targets,
            **origin,
            "training.initialization.start": ["pretrained"],
            "training.layers.backbone_learning_rate": pretrained_rates,
        },
        {
            "target.data": targets,
            "training.initialization.start": ["random"],
            "training.layers.backbone_learning_rate": random_rates,
        },
    ]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
