"""Question: does frozen transfer gain or lose accuracy with depth, depending on the number of target images?

A residual network of 14 layers is pretrained on CIFAR-100. Its first 1, 3, 5 or all 7 blocks are transferred, frozen or
tuned, and the others are reinitialized. It is trained on 5 to 400 images of each class of CIFAR-10, which has other
classes, but the same kind of images. The baseline transfers nothing. Small training sets are repeated more often.

Source: Yosinski et al. 2014, "How transferable are features in deep neural networks?", figure 2: with half a million
target images, the accuracy of frozen transfer (AnB) falls with depth. In the study transfer_depth.py, with 300 images,
it rises.
Expected: with few images, frozen transfer rises with depth, because new blocks cannot be learned. With more images, the
direction turns, because new blocks fit the target better than frozen ones. Tuned transfer does not fall.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', or both as 'small,FOLDER'."""
    scale = read_scale(arg, __file__)
    weights, images = scale.files("weights/resnetsmall14.cifar100.safetensors", "images/cifar10-lossless-5000.npz")
    config = scale.study("Transfer depth by number of target images, frozen or tuned", seeds=scale.pick(5, small=2))
    config.source = {"model": "resnetsmall14", "weights": weights}
    config.target = scale.images(images)
    config.training = scale.training(batch_size=25)
    config.training.selection = {"weights": "last"}  # all 4,000 training images are used in the largest arm

    # Tuned blocks need a lower learning rate than new blocks (transfer_depth.py).
    depths = scale.pick([1, 3, 5, 7], small=[1, 7])
    arms = [
        {
            "training.initialization.transferred": ["frozen"],
            "training.initialization.transferred_blocks": depths,
            "training.optimizer.learning_rate": [0.05],
        },
        {
            "training.initialization.transferred": ["tuned"],
            "training.initialization.transferred_blocks": depths,
            "training.optimizer.learning_rate": [0.01],
        },
        {"training.initialization.start": ["random"], "training.optimizer.learning_rate": [0.05]},
    ]
    # The last training set has all 4,000 images, 366 to 422 per class.
    epochs_of = scale.pick({5: 80.0, 20: 40.0, 80: 30.0, None: 12.0}, small={5: 4.0, 20: 2.0})
    config.factors = [
        {"target.train_per_class": [count], "training.schedule.epochs": [epochs], **arm}
        for count, epochs in epochs_of.items()
        for arm in arms
    ]
    return config
