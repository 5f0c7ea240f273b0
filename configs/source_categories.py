"""Question: for a fixed number of source images, are more classes or more images per class better?

A small residual network is pretrained on 800 images of Tiny ImageNet at 32 x 32 pixels: 20 images of 40 classes, 10 of
80, or 4 of 200. It is then fine-tuned to the classes of Caltech-101 with seven images per class. The baseline is the
same network with random initialization. In every arm, each seed selects the learning rate of the backbone on
validation. Each seed draws its own source classes and images, pretrains its own source network, and draws the same
target images in all arms.

Source: Huh, Agrawal & Efros 2016, section 5 (more classes or more examples); Li, Herranz & Jiang 2020.
Expected: all beat random initialization. More classes help more than more images per class, with diminishing returns.
With 800 images the differences may be smaller than the intervals.
Found: test accuracy in percent with 95% intervals over five seeds (jaxft study --config=configs/source_categories.py
--workdir=DIR): 40 classes 12.4 +- 1.8, 80 classes 13.5 +- 0.7, 200 classes 12.1 +- 2.2, random 9.1 +- 1.2. All beat
random initialization (p <= 0.026, Holm). Five seeds show no difference between the three ways to spread 800 images.
Cost: about 12 minutes on two cores, with worker processes. The study reads images/tiny-imagenet-200.zip and
images/caltech-101.zip, which `jaxft data get` downloads. source_categories.py:FOLDER reads them from FOLDER.
source_categories.py:small (or small,FOLDER) runs for one or two minutes, which is too short to answer the question.
source_categories.py:full has the scale of the publications, for accelerators: imagenet2012 and caltech101 from TFDS.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    tiny, full = "images/tiny-imagenet-200.zip", ("tfds:imagenet2012", "tfds:caltech101")
    source, target = scale.files(tiny, "images/caltech-101.zip", full=full)
    config = scale.study("Source classes: few with many images, or many with few", seeds=scale.pick(5, small=2))
    config.streams = {"source": None}  # the intervals include the variation from pretraining
    rates = {"training.layers.backbone_learning_rate": scale.pick([0.01, 0.1], small=[0.01])}
    config.source = {
        "model": scale.pick("cifar_resnet8", full="resnet18"),
        "images": scale.images(source, num_images=scale.pick(800, full=127_000), tested=False),
        "training": scale.source_training(epochs=scale.pick(30.0, small=3.0, full=90.0), batch_size=50),
    }
    config.target = scale.images(target, train_per_class=scale.pick(7, full=24), val_per_class=scale.pick(3, full=6))
    config.training = scale.training(learning_rate=0.1, batch_size=32)  # of the head
    config.training.schedule = {"epochs": scale.pick(12.0, small=2.0)}

    config.factors = [
        {
            "source.images.num_classes": scale.pick([40, 80, 200], full=[127, 250, 500, 1000]),
            "training.initialization.start": ["pretrained"],
            **rates,
        },
        {"training.initialization.start": ["random"], **rates},
    ]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
