"""Question: does frozen transfer gain or lose accuracy with depth, depending on the number of target images?

A residual network of 14 layers is pretrained on CIFAR-100. Its first 1, 3, 5 or all 7 blocks are transferred, frozen or
tuned, and the others are reinitialized. It is trained on 5 to 400 images of each class of CIFAR-10, which has other
classes, but the same kind of images. The baseline transfers nothing. Small training sets are repeated more often.

Source: Yosinski et al. 2014, "How transferable are features in deep neural networks?", figure 2: with half a million
target images, the accuracy of frozen transfer (AnB) falls with depth. In the study transfer_depth.py, with 300 images,
it rises.
Expected: with few images, frozen transfer rises with depth, because new blocks cannot be learned. With more images, the
direction turns, because new blocks fit the target better than frozen ones. Tuned transfer does not fall.
Found: test accuracy in percent with 95% intervals over five seeds, for 1, 3, 5 and 7 transferred blocks (jaxft study
--config=configs/depth_and_images.py --workdir=DIR):
- 5 images per class: frozen 21.5 +- 3.0, 30.4 +- 2.9, 40.4 +- 4.1, 50.0 +- 4.0; tuned 21.9 +- 2.3, 28.0 +- 3.2, 38.2 +-
  7.5, 46.0 +- 4.2; random 22.1 +- 1.4.
- 20: frozen 34.5 +- 2.8, 42.9 +- 1.4, 56.1 +- 1.8, 62.5 +- 0.8; tuned 32.8 +- 1.2, 39.7 +- 1.2, 53.2 +- 1.0, 61.9 +-
  1.7; random 32.8 +- 1.7.
- 80: frozen 49.9 +- 1.4, 60.3 +- 2.3, 68.2 +- 1.4, 67.1 +- 1.5; tuned 48.0 +- 1.3, 57.3 +- 2.2, 65.4 +- 0.6, 71.9 +-
  0.3; random 47.4 +- 1.9.
- 400: frozen 63.2 +- 2.2, 71.5 +- 1.3, 77.8 +- 0.9, 74.0 +- 0.8; tuned 60.3 +- 1.8, 68.5 +- 1.0, 76.5 +- 0.4, 80.6 +-
  1.1; random 58.6 +- 2.1.
- From 5 to 7 frozen blocks (stage3), the paired difference is 9.6 +- 3.3, 6.4 +- 2.5, -1.1 +- 2.6 and -3.8 +- 1.1
  points for 5, 20, 80 and 400 images per class. Between the others, depth always gains 6 to 13 points.
- Conclusion: the direction turns within reach, for the last stage, between 20 and 400 images per class: the optimal
  depth moves down with the number of images. The first five blocks transfer with up to 4,000 images; in the paper, the
  fall begins at the third of seven layers, with half a million. Tuned, all seven blocks are best from 80 images per
  class on, 4.8 +- 1.5 and 6.6 +- 1.5 points above frozen ones, and accuracy never falls with depth. With fewer blocks,
  tuned ones are up to 3 points below frozen ones; in this study, their lower learning rate is also that of new blocks.
Cost: `jaxft study --dry-run` estimates 1 h 48 min on two cores for trials that run one after another; worker processes
take less. The run above took 2 h 18 min, on two cores that did other work and with pauses. The study reads
weights/resnetsmall14.cifar100.safetensors and images/cifar10-lossless-5000.npz, which `jaxft weights get` and `jaxft
data get` download. depth_and_images.py:FOLDER reads them from FOLDER. depth_and_images.py:small (or small,FOLDER) runs
for one or two minutes, which is too short to answer the question.
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
