"""How long does a network have to be trained, until one from scratch is as good as a fine-tuned one?

A residual network for 32 x 32 pixels, trained on CIFAR-100 or started at random, is trained on 20 images of each of six
kinds of scenes for 15, 45, 135 or 405 steps; the rate falls to zero along half a cosine, however long that is.

Source: He, Girshick & Dollar 2019, "Rethinking ImageNet pre-training"; Raghu et al. 2019.
Expected: the pretrained network is good after a short time and gains little from more; the random one gains with every
step of the length and comes nearer. With so few images it does not catch up: in He et al. it does with tens of
thousands, and not with one tenth of them.
Found, test accuracy in percent with 95% intervals over five seeds: pretrained 63.1 +- 3.7, 70.9 +- 2.0, 70.3 +- 1.1 and
70.0 +- 4.0; random 38.1 +- 5.4, 49.7 +- 4.5, 53.4 +- 1.5 and 51.9 +- 2.8. As expected the pretrained one is done after
45 steps, and the gap falls with the length, from 25.0 +- 6.5 points to 16.9 +- 2.0 at 135 steps, and no further.
Data: weights/resnetsmall8.cifar100.safetensors and images/intel-scenes-6.zip, in ../shared/data beside the clone or in
a folder named behind the config, schedule_length.py:FOLDER. About 10 minutes on two cores, in worker processes. Behind
schedule_length.py:small (or small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full is
the scale of the publications (ImageNet's ResNet-50 from the file named in --config.source.weights; TFDS' sun397), for
accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import study_data


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    size, files = study_data(arg, __file__, "weights/resnetsmall8.cifar100.safetensors", "images/intel-scenes-6.zip")
    full = size == "full"
    weights, images = files or ("resnet50.safetensors", "tfds:sun397/standard-part1-120k")

    config = ConfigDict()
    config.title = "Length of the schedule: pretrained and from scratch"
    config.seeds = 2 if size == "small" else 5

    config.source = {"model": "resnet50" if full else "resnetsmall8", "weights": weights}
    config.target = {
        "data": images,
        "train_per_class": 20,
        "val_per_class": 5 if full else 10,
        "size_px": 256 if full else 32,
    }
    config.training = {
        "optimizer": {
            "learning_rate": 0.1,  # the head's
            "weight_decay": 5e-4,
        },
        "batches": {"size": 64 if full else 30},
        "augmentation": {
            "flip": {"enabled": True},
            "crop": {"size_px": 224, "scale_min": 0.3} if full else {"padding_px": 4},
        },
    }

    lengths = [1500, 5000, 15000, 50000] if full else [6, 18] if size == "small" else [15, 45, 135, 405]
    config.factors = [
        {
            "training.initialization.start": [init],
            "training.layers.backbone_learning_rate": [rate],  # about the best of learning_rate.py
            "training.schedule.steps": lengths,
        }
        for init, rate in (("pretrained", 0.001), ("random", 0.1))
    ]
    return config
