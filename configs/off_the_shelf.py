"""How far do a network's features go without training it: of which layer, pooled how, and classified by what?

EfficientNet-Lite0, trained on ImageNet, looks at six kinds of scenes. What leaves five of its stages is averaged and
classified by logistic regression, a linear support vector machine, nearest neighbours and nearest class means; of
three of them other poolings are classified by logistic regression; and of the pooled features below the head 1, 5
and 20 images a class are learnt from. Strengths and numbers of neighbours are chosen on validation.

Source: Donahue et al. 2014 (DeCAF); Razavian et al. 2014; He et al. 2014 (pyramids); Liu et al. 2015 (cross-layer
products); Lin et al. 2015 (second order); Azizpour et al. 2016.
Expected: accuracy rises from lower to higher stages; logistic regression and the SVM are level, ahead of neighbours and
class means; second-order poolings gain most over the average in the middle of the network; with one image a class the
classifiers are level, and each further image gains less.
Data: weights/efficientnet_lite0.imagenet.safetensors and images/intel-scenes-6.zip, in ../shared/data beside the clone
or in a folder named behind the config, off_the_shelf.py:FOLDER. About 10 minutes on two cores, of which the network
takes one or two. Behind off_the_shelf.py:small (or small,FOLDER) is a run of a minute with a network for 32 x 32
pixels, resnetsmall8 from CIFAR-100; behind :full is the scale of the publications (ImageNet's ResNet-50 from the file
named in --config.source.weights; TFDS' caltech101, 25 images a class).
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale

NETWORKS = {  # what looks, its weights, stages from low to high, of which the last three are pooled otherwise too, size
    "": ("efficientnet_lite0", "weights/efficientnet_lite0.imagenet.safetensors", (2, 3, 4, 5, 7), 224),
    "small": ("resnetsmall8", "weights/resnetsmall8.cifar100.safetensors", (1, 2, 3), 32),
    "full": ("resnet18", "resnet18.safetensors", (1, 2, 3, 4), 224),  # of wider ones pairs of channels are too many
}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    model, weights, stages, size_px = NETWORKS[scale.name]
    weights, images = scale.files(weights, "images/intel-scenes-6.zip", full=(weights, "tfds:caltech101"))
    config = scale.study("Off the shelf: layers, poolings and classifiers", seeds=scale.pick(5, small=2))
    config.source = {"model": model, "weights": weights}
    config.target = {
        "data": images,
        "size_px": size_px,
        "train_per_class": scale.pick(50, small=10, full=25),
        "val_per_class": scale.pick(20, small=5, full=5),
        "test_per_class": scale.pick(None, small=10),
    }
    if scale.is_full:
        config.execution = {"feature_cache_bytes": 20e9}

    taps = [f"stage{number}" for number in stages]
    classifiers = ["logistic", "svm", "knn", "class_mean"]
    config.factors = [
        {"training.classifier.tap": taps, "training.classifier.kind": classifiers},
        {
            "training.classifier.tap": scale.pick(taps[-3:], small=taps[-1:], full=taps[:3]),
            "training.classifier.pooling": ["max", "pyramid", "cross_layer", "bilinear", "covariance"],
            "training.classifier.kind": ["logistic"],
        },
        {"target.train_per_class": scale.pick([1, 5, 20], small=[1, 5]), "training.classifier.kind": classifiers},
    ]
    return config
