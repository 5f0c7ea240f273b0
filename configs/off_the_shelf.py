"""Question: how good are the features of a network without training: which layer, which pooling, which classifier?

EfficientNet-Lite0, pretrained on ImageNet, computes features of six classes of scenes. The outputs of five stages are
averaged and classified by logistic regression, a linear support vector machine, nearest neighbors and nearest class
means. For three of the stages, logistic regression is also combined with the other poolings. For the features below the
head, all classifiers are also fitted on 1, 5 and 20 images per class. Penalties and numbers of neighbors are selected
on validation.

Source: Donahue et al. 2014 (DeCAF); Razavian et al. 2014; He et al. 2014 (pyramids); Liu et al. 2015 (cross-layer
pooling); Lin et al. 2015 (second order); Azizpour et al. 2016.
Expected: accuracy rises from lower to higher stages. Logistic regression and the SVM are equal, and better than nearest
neighbors and class means. Second-order pooling gains most over the average in the middle of the network. With one image
per class all classifiers are equal, and each further image adds less.
Found: not measured yet.
Cost: about 10 minutes on two cores, of which the network takes one or two. The study reads
weights/efficientnet_lite0.imagenet.safetensors and images/intel-scenes-6.zip, which `jaxft weights get` and `jaxft data
get` download. off_the_shelf.py:FOLDER reads them from FOLDER. off_the_shelf.py:small (or small,FOLDER) runs for one
minute with resnetsmall8 from CIFAR-100 at 32 x 32 pixels, which is too short to answer the question.
off_the_shelf.py:full has the scale of the publications, for accelerators: torchvision's ImageNet weights of ResNet-18;
caltech101 from TFDS with 25 images per class.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale

NETWORKS = {  # model, weights, stages from low to high (other poolings: the last three), image size in px
    "": ("efficientnet_lite0", "weights/efficientnet_lite0.imagenet.safetensors", (2, 3, 4, 5, 7), 224),
    "small": ("resnetsmall8", "weights/resnetsmall8.cifar100.safetensors", (1, 2, 3), 32),
    "full": ("resnet18", "torchvision/resnet18", (1, 2, 3, 4), 224),  # wider networks have too many pairs of channels
}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    model, weights, stages, size_px = NETWORKS[scale.name]
    weights, images = scale.files(weights, "images/intel-scenes-6.zip", full=(weights, "tfds:caltech101"))
    config = scale.study("Off-the-shelf features: layers, poolings and classifiers", seeds=scale.pick(5, small=2))
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
