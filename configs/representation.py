"""Question: which layers keep their representation in fine-tuning, at which learning rate, and do seeds agree?

A residual network of 14 layers, pretrained on CIFAR-100, or with random weights, is trained on 30 images of each of six
classes of scenes, at several learning rates of the backbone. The analyses measure the similarity (linear CKA) of the
activations of four taps on 60 validation images of each class: before and after training, and between seeds.

Source: Kornblith et al. 2019, "Similarity of neural network representations revisited"; Neyshabur et al. 2020, "What is
being transferred in transfer learning?" (similarity of fine-tuned networks to the pretrained one and to each other).
Expected: the first stages keep their representation, the last stage changes most. The similarity falls with the
learning rate. Networks that start from the same pretrained weights are more similar than networks from scratch.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', or both as 'small,FOLDER'."""
    scale = read_scale(arg, __file__)
    weights, images = scale.files("weights/resnetsmall14.cifar100.safetensors", "images/intel-scenes-6.zip")
    config = scale.study("Similarity of representations before and after fine-tuning", scale.pick(5, small=2))
    config.source = {"model": "resnetsmall14", "weights": weights}
    config.target = scale.images(images, train_per_class=30, val_per_class=60, test_per_class=60)
    config.training = scale.training(learning_rate=0.1, batch_size=20)  # of the head
    config.training.schedule = {"epochs": scale.pick(20.0, small=1.0)}
    config.training.selection = {"weights": "last"}  # the validation images are those of the analyses
    config.streams = {"split": 0}  # all seeds have the same validation images
    config.analyses = ["representation", "representation_of_seeds"]

    rates = "training.layers.backbone_learning_rate"
    config.factors = [
        {"training.initialization.start": ["pretrained"], rates: scale.pick([0.001, 0.01, 0.1], small=[0.01])},
        {"training.initialization.start": ["random"], rates: scale.pick([0.01, 0.1], small=[0.1])},
    ]
    return config
