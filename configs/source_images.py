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

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    tiny, full = "images/tiny-imagenet-200.zip", ("tfds:imagenet2012", "tfds:caltech101")
    source, target = scale.files(tiny, "images/caltech-101.zip", full=full)
    config = scale.study("Source images: how many of each category", seeds=scale.pick(5, small=2))
    config.streams = {"source": None}  # the source's own chance is in the intervals
    rates = {"training.layers.backbone_learning_rate": scale.pick([0.01, 0.1], small=[0.01])}
    config.source = {
        "model": scale.pick("cifar_resnet8", full="resnet18"),
        "images": scale.images(source, train_per_class=scale.pick(20, full=1000), tested=False),
        "training": scale.source_training(epochs=10.0, batch_size=50),
    }
    config.target = scale.images(target, train_per_class=scale.pick(7, full=24), val_per_class=scale.pick(3, full=6))
    config.training = scale.training(learning_rate=0.1, batch_size=32)  # the head's rate
    config.training.schedule = {"epochs": scale.pick(12.0, small=2.0)}

    images_seen = scale.pick(30_000, small=4_000, full=115_000_000)
    num_classes, counts = scale.pick((200, [5, 10, 20]), full=(1000, [60, 125, 250, 500, 1000]))
    config.factors = [
        {
            "source.images.train_per_class": [count],
            "source.training.schedule.epochs": [images_seen / (num_classes * count)],
            "training.initialization.start": ["pretrained"],
            **rates,
        }
        for count in counts
    ]
    config.factors += [{"training.initialization.start": ["random"], **rates}]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
