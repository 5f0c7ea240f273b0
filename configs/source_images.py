"""Question: how many images per source class does a network need, to be a good start for other classes?

A small residual network is pretrained on 5, 10 or 20 images of each of the 200 classes of Tiny ImageNet at 32 x 32
pixels, always for the same number of steps. It is then fine-tuned to the classes of Caltech-101 with seven images per
class. The baseline is the same network with random initialization. In every arm, each seed selects the learning rate of
the backbone on validation. Each seed draws its own nested source images, and the same target images in all arms.

Source: Huh, Agrawal & Efros 2016, section 4 (half of the images per class cost 1.5 points of mAP on PASCAL-DET);
Azizpour et al. 2016; Li, Herranz & Jiang 2020.
Expected: more images per class help, with diminishing returns. All beat random initialization.
Found: not measured yet.
Cost: --dry-run prints an estimate of the time. The study reads images/tiny-imagenet-200.zip and images/caltech-101.zip,
which `jaxft data get` downloads. source_images.py:FOLDER reads them from FOLDER. source_images.py:small (or
small,FOLDER) runs for one or two minutes, which is too short to answer the question. source_images.py:full has the
scale of the publications, for accelerators: imagenet2012 and caltech101 from TFDS.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    tiny, full = "images/tiny-imagenet-200.zip", ("tfds:imagenet2012", "tfds:caltech101")
    source, target = scale.files(tiny, "images/caltech-101.zip", full=full)
    config = scale.study("Source images: number per class", seeds=scale.pick(5, small=2))
    config.streams = {"source": None}  # the intervals include the variation from pretraining
    rates = {"training.layers.backbone_learning_rate": scale.pick([0.01, 0.1], small=[0.01])}
    config.source = {
        "model": scale.pick("cifar_resnet8", full="resnet18"),
        "images": scale.images(source, train_per_class=scale.pick(20, full=1000), tested=False),
        "training": scale.source_training(epochs=10.0, batch_size=50),
    }
    config.target = scale.images(target, train_per_class=scale.pick(7, full=24), val_per_class=scale.pick(3, full=6))
    config.training = scale.training(learning_rate=0.1, batch_size=32)  # of the head
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
