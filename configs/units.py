"""Question: do single units become more selective by fine-tuning, do fewer die, and which images activate them?

A residual network of 14 layers, pretrained on CIFAR-100, or with random weights, is trained on 30 images of each of six
classes of scenes, at several learning rates of the backbone. The analysis measures every unit (channel) of four taps on
60 validation images of each class, before and after training.

Source: Morcos et al. 2018, "On the importance of single directions for generalization" (class selectivity); Agrawal et
al. 2014, "Analyzing the performance of multilayer neural networks for object recognition" (label entropy of the top
images of a unit); Zeiler & Fergus 2014 (top images).
Expected: units become more selective for the classes of the target, most of all in the last stage. Units of the first
stage keep their top images. Few units die. The changes grow with the learning rate.
Found: means with 95% intervals over five seeds (jaxft study --config=configs/units.py --workdir=DIR); (a) is pretrained
at the learning rates 0.001, 0.01, 0.1, (b) is from scratch at 0.01, 0.1:
- Test accuracy: (a) 71.3 +- 1.3, 55.1 +- 5.6, 40.2 +- 11.1; (b) 54.7 +- 1.2, 52.2 +- 4.4.
- Selectivity of the last tap: (a) from 0.22 to 0.28 +- 0.05, 0.60 +- 0.19, 0.84 +- 0.15; (b) from 0.13 to 0.30 +- 0.04,
  0.45 +- 0.04. Of the stem: (a) from 0.20 to 0.20 +- 0.01, 0.24 +- 0.04, 0.26 +- 0.02.
- Dead units, of all taps: (a) from 4.5% (8 of 64 channels of the stem) to 4.5%, 9 +- 4%, 27 +- 3%; at 0.1, 43 +- 10% of
  the last tap are dead. (b) from 0 to 0% and 1.0 +- 2.5%.
- Jaccard index of the top nine images before and after: (a) at 0.001, 0.71 +- 0.03 in the stem, 0.50 +- 0.03, 0.35 +-
  0.05 and 0.17 +- 0.03 after the three stages; at 0.01, 0.16 +- 0.08 in the stem and 0.01 +- 0.01 after the last stage.
- The new top images of a unit are of fewer classes: the entropy of their labels after the last stage falls from 1.74
  bits to 1.65 +- 0.13, 0.79 +- 0.65, 0.75 +- 0.46 (a). docs/gallery.md shows the units that changed most.
- Conclusion: units become more selective, and more so at higher rates, where the accuracy is lower and units die. So
  selectivity does not measure the quality of features here.
Cost: about ten minutes on two busy cores, with worker processes. The study reads
weights/resnetsmall14.cifar100.safetensors and images/intel-scenes-6.zip, which `jaxft weights get` and `jaxft data get`
download. units.py:FOLDER reads them from FOLDER. units.py:small (or small,FOLDER) runs for less than a minute, which is
too short to answer the question.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', or both as 'small,FOLDER'."""
    scale = read_scale(arg, __file__)
    weights, images = scale.files("weights/resnetsmall14.cifar100.safetensors", "images/intel-scenes-6.zip")
    config = scale.study("Single units before and after fine-tuning", scale.pick(5, small=2))
    config.source = {"model": "resnetsmall14", "weights": weights}
    config.target = scale.images(images, train_per_class=30, val_per_class=60, test_per_class=60)
    config.training = scale.training(learning_rate=0.1, batch_size=20)  # of the head
    config.training.schedule = {"epochs": scale.pick(20.0, small=1.0)}
    config.training.selection = {"weights": "last"}  # the validation images are those of the analysis
    config.streams = {"split": 0}  # all seeds have the same validation images
    config.analyses = ["units"]

    rates = "training.layers.backbone_learning_rate"
    config.factors = [
        {"training.initialization.start": ["pretrained"], rates: scale.pick([0.001, 0.01, 0.1], small=[0.01])},
        {"training.initialization.start": ["random"], rates: scale.pick([0.01, 0.1], small=[0.1])},
    ]
    return config
