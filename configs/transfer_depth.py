"""How deep does a network transfer: which of its units are general, and do copied ones need tuning?

A residual network of 14 layers, trained on CIFAR-100, has its first k units copied, for every k, and the others
started anew; it is trained on 50 images of each of six kinds of scenes. The copied units are frozen (AnB) or tuned
(AnB+), at a learning rate that suits new units and at a tenth of it. The control takes them from a network that was
trained on those scenes itself (BnB, BnB+), and the base has no copied unit.

Source: Yosinski et al. 2014, "How transferable are features in deep neural networks?", figure 2. Theirs are halves of
ImageNet's classes; ours are two sets, of unlike classes and cameras, and the control's images to train on are drawn
from those that the scenes have for it, not the same 50 of each.
Expected: AnB falls with depth (.628 to .542 from 1 to 7 layers there), BnB dips in the middle, where units are adapted
to one another; AnB+ does not fall, and is the best (.636 to .646).
Found, test accuracy in percent with 95% intervals over three seeds, of 1 to 7 units: at 0.05 AnB 57.7 +- 3.7, 63.7 +-
0.8, 66.5 +- 4.8, 73.1 +- 6.1, 76.2 +- 5.0, 76.7 +- 3.5, 76.9 +- 4.1, AnB+ 56.8 +- 6.1, 62.5 +- 10.1, 64.6 +- 2.4, 69.1
+- 2.3, 71.1 +- 6.1, 70.4 +- 6.1, 58.7 +- 8.5; at 0.005 AnB from 52.6 +- 7.7 to 74.4 +- 2.9, AnB+ from 52.6 +- 4.7 to
77.0 +- 2.3; BnB and BnB+ between 56.7 and 60.5; no unit copied 57.7 +- 5.2. So with 300 images transfer rises with
depth, frozen too, where there it fell with half a million; tuned it does not fall, and at the whole depth beats frozen
(by 2.6 +- 2.5), at the low rate alone: at the high one all seven lose what they knew. BnB has no dip beyond its
intervals.
Data: weights/resnetsmall14.cifar100.safetensors and images/intel-scenes-6.zip, in ../shared/data beside the clone or
in a folder named behind the config, transfer_depth.py:FOLDER. About a quarter of an hour on two cores, in worker
processes. Behind transfer_depth.py:small (or small,FOLDER) is a run of a minute or two, too short to answer
anything; behind :full is the scale of the publication (ImageNet's ResNet-50 from the file named in
--config.source.weights; TFDS' sun397), for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall14.cifar100.safetensors", "images/intel-scenes-6.zip")
    weights, scenes = scale.files(*names, full=("resnet50.safetensors", "tfds:sun397/standard-part1-120k"))
    config = scale.study("Transfer depth: the first k units copied, frozen or tuned", seeds=scale.pick(3, small=2))
    config.source = {
        "model": scale.pick("resnetsmall14", full="resnet50"),
        "training": scale.source_training(epochs=scale.pick(20.0, small=1.0, full=90.0), batch_size=30),
    }
    config.target = scale.images(scenes, train_per_class=50, val_per_class=5)
    config.training = scale.training(batch_size=scale.pick(30, full=64))
    config.training.schedule = {"epochs": scale.pick(8.0, small=1.0, full=90.0)}
    config.training.selection = {"weights": "last"}  # the control's source may have seen the images to select on

    stages = ["stem", "stage1", "stage2", "stage3", "stage4"]
    depths = scale.pick([1, 2, 3, 4, 5, 6, 7], small=[1, 4, 7], full=stages)
    of_scenes = scale.images(scenes, train_per_class=50, tested=False)
    arms = {"training.initialization.copied_units": depths, "training.initialization.copied": ["frozen", "tuned"]}
    rates = {"training.optimizer.learning_rate": scale.pick([0.005, 0.05], small=[0.05], full=[0.05])}
    config.factors = [
        {"source.weights": [weights], **arms, **rates},
        {"source.images": [of_scenes], **arms, "training.optimizer.learning_rate": [0.05]},
        {"source.weights": [weights], "training.initialization.start": ["random"], **rates},
    ]
    return config
