"""Question: how deep does a network transfer, which blocks are general, and must transferred blocks be tuned?

A residual network of 14 layers is pretrained on CIFAR-100. Its first k blocks are transferred, for every k, and the
others are reinitialized. It is trained on 50 images of each of six classes of scenes. The transferred blocks are frozen
(AnB) or tuned (AnB+), at a learning rate that suits new blocks and at a tenth of it. The control transfers them from a
network trained on scenes (BnB, BnB+), and the baseline transfers nothing.

Source: Yosinski et al. 2014, "How transferable are features in deep neural networks?", figure 2. They use halves of the
classes of ImageNet. This study uses two data sets with different classes and cameras, and the control draws its own
training images of the scenes, not the same 50 per class.
Expected: AnB falls with depth (there, from .628 to .542 for 1 to 7 layers). BnB has a minimum in the middle, where
blocks are adapted to each other. AnB+ does not fall and is best (.636 to .646).
Found: test accuracy in percent with 95% intervals over three seeds, for 1 to 7 blocks (jaxft study
--config=configs/transfer_depth.py --workdir=DIR):
- AnB at 0.05: 57.7 +- 3.7, 63.7 +- 0.8, 66.5 +- 4.8, 73.1 +- 6.1, 76.2 +- 5.0, 76.7 +- 3.5, 76.9 +- 4.1;
- AnB+ at 0.05: 56.8 +- 6.1, 62.5 +- 10.1, 64.6 +- 2.4, 69.1 +- 2.3, 71.1 +- 6.1, 70.4 +- 6.1, 58.7 +- 8.5;
- AnB at 0.005: from 52.6 +- 7.7 to 74.4 +- 2.9; AnB+ at 0.005: from 52.6 +- 4.7 to 77.0 +- 2.3;
- BnB and BnB+: between 56.7 and 60.5; no transferred block: 57.7 +- 5.2.
- Conclusion: with 300 images, accuracy rises with the number of transferred blocks, also for frozen ones; with half a
  million images in the paper, it fell. Tuned blocks do not lose accuracy at the low learning rate. With all blocks
  transferred, tuning beats freezing by 2.6 +- 2.5 points, only at the low rate. At the high rate, all seven blocks lose
  their pretrained features. BnB has no minimum beyond its intervals.
Cost: about a quarter of an hour on two cores, with worker processes. The study reads
weights/resnetsmall14.cifar100.safetensors and images/intel-scenes-6.zip, which `jaxft weights get` and `jaxft data get`
download. transfer_depth.py:FOLDER reads them from FOLDER. transfer_depth.py:small (or small,FOLDER) runs for one or two
minutes, which is too short to answer the question. transfer_depth.py:full has the scale of the publications, for
accelerators: torchvision's first ImageNet weights of ResNet-50; sun397 from TFDS.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall14.cifar100.safetensors", "images/intel-scenes-6.zip")
    weights, scenes = scale.files(
        *names, full=("torchvision/resnet50.IMAGENET1K_V1", "tfds:sun397/standard-part1-120k")
    )
    config = scale.study("Transfer depth: first k blocks transferred, frozen or tuned", seeds=scale.pick(3, small=2))
    config.source = {
        "model": scale.pick("resnetsmall14", full="resnet50"),
        "training": scale.source_training(epochs=scale.pick(20.0, small=1.0, full=90.0), batch_size=30),
    }
    config.target = scale.images(scenes, train_per_class=50, val_per_class=5)
    config.training = scale.training(batch_size=scale.pick(30, full=64))
    config.training.schedule = {"epochs": scale.pick(8.0, small=1.0, full=90.0)}
    config.training.selection = {"weights": "last"}  # validation images may be among the images of the control's source

    stages = ["stem", "stage1", "stage2", "stage3", "stage4"]
    depths = scale.pick([1, 2, 3, 4, 5, 6, 7], small=[1, 4, 7], full=stages)
    of_scenes = scale.images(scenes, train_per_class=50, tested=False)
    arms = {
        "training.initialization.transferred_blocks": depths,
        "training.initialization.transferred": ["frozen", "tuned"],
    }
    rates = {"training.optimizer.learning_rate": scale.pick([0.005, 0.05], small=[0.05], full=[0.05])}
    config.factors = [
        {"source.weights": [weights], **arms, **rates},
        {"source.images": [of_scenes], **arms, "training.optimizer.learning_rate": [0.05]},
        {"source.weights": [weights], "training.initialization.start": ["random"], **rates},
    ]
    return config
