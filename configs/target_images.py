"""How many target images does it take, until a network from scratch is as good as a fine-tuned one?

A residual network for 32 x 32 pixels, trained on CIFAR-100 or started at random, is trained on 5, 10, 20 or 50 images
of each of six kinds of scenes, for as many steps whatever their number. The body's rate is selected on validation, in
every arm by every seed; the fewer images lie within the more, and the images to select and to test on are the same.

Source: Agrawal, Girshick & Malik 2014; Azizpour et al. 2016; He, Girshick & Dollar 2019; Li, Herranz & Jiang 2020.
Expected: accuracy rises with the images, with diminishing returns; the pretrained network is ahead, and by less the
more images there are.
Found, test accuracy in percent with 95% intervals over five seeds, of 5, 10, 20 and 50 images a class: pretrained
61.2 +- 6.2, 65.8 +- 1.8, 71.2 +- 0.8, 73.8 +- 3.9; random 39.0 +- 7.8, 48.5 +- 3.1, 52.4 +- 2.0, 58.4 +- 3.4. So the
random start needs 50 images a class for what the pretrained one does with 5, and the gap falls from 22 to 15 points.
Data: weights/resnetsmall8.cifar100.safetensors and images/intel-scenes-6.zip, in ../shared/data beside the clone or in
a folder named behind the config, target_images.py:FOLDER. About 20 minutes on two busy cores. Behind
target_images.py:small (or small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full is the
scale of the publications (ImageNet's ResNet-50 from the file named in --config.source.weights; TFDS' sun397), for
accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall8.cifar100.safetensors", "images/intel-scenes-6.zip")
    weights, images = scale.files(*names, full=("resnet50.safetensors", "tfds:sun397/standard-part1-120k"))
    config = scale.study("Target images: pretrained and from scratch, from few to many", seeds=scale.pick(5, small=2))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50"), "weights": weights}
    config.target = scale.images(images, val_per_class=scale.pick(10, full=5))
    config.training = scale.training(learning_rate=0.1, batch_size=scale.pick(30, full=64))  # the head's rate

    # Every arm sees as many images, the few again and again.
    num_classes, counts = scale.pick(6, full=397), [5, 10, 20, 50]
    images_seen = scale.pick(3_600, small=600, full=2_000_000)
    pretrained_rates, random_rates = scale.pick(([0.001, 0.01], [0.01, 0.1]), small=([0.003], [0.03]))
    config.factors = [
        {
            "target.train_per_class": [count],
            "training.schedule.epochs": [images_seen / (num_classes * count)],
            "training.initialization.start": [init],
            "training.layers.backbone_learning_rate": rates,
        }
        for init, rates in (("pretrained", pretrained_rates), ("random", random_rates))
        for count in counts
    ]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
