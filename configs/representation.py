"""Question: which layers keep their representation in fine-tuning, at which learning rate, and do seeds agree?

A residual network of 14 layers, pretrained on CIFAR-100, or with random weights, is trained on 30 images of each of six
classes of scenes, at several learning rates of the backbone. The analyses measure the similarity (linear CKA) of the
activations of four taps on 60 validation images of each class: before and after training, and between seeds.

Source: Kornblith et al. 2019, "Similarity of neural network representations revisited"; Neyshabur et al. 2020, "What is
being transferred in transfer learning?" (similarity of fine-tuned networks to the pretrained one and to each other).
Expected: the first stages keep their representation, the last stage changes most. The similarity falls with the
learning rate. Networks that start from the same pretrained weights are more similar than networks from scratch.
Found: means with 95% intervals over five seeds (jaxft study --config=configs/representation.py --workdir=DIR); (a) is
pretrained at the learning rates 0.001, 0.01, 0.1, (b) is from scratch at 0.01, 0.1; the four values are those of the
stem and after the three stages:
- Test accuracy: (a) 71.3 +- 1.3, 55.1 +- 5.6, 40.2 +- 11.1; (b) 54.7 +- 1.2, 52.2 +- 4.4.
- Before and after training (a): at 0.001, 0.97 +- 0.02, 0.95 +- 0.02, 0.93 +- 0.01, 0.69 +- 0.06; at 0.01, 0.76 +-
  0.04, 0.52 +- 0.11, 0.24 +- 0.05, 0.05 +- 0.02; at 0.1, 0.72 +- 0.09, 0.51 +- 0.14, 0.26 +- 0.09, 0.19 +- 0.13.
- Before and after training (b): at 0.01, 0.95 +- 0.04, 0.56 +- 0.26, 0.40 +- 0.30, 0.35 +- 0.20; at 0.1, 0.96 +- 0.02,
  0.68 +- 0.15, 0.59 +- 0.17, 0.33 +- 0.08: random networks keep more of their last representation than pretrained ones
  at 0.01.
- Between seeds, mean over ten pairs, after the last stage: (a) 0.67, 0.54, 0.51; (b) 0.69, 0.73.
- Conclusion: only the smallest rate, which is the most accurate, keeps the pretrained representation, except in the
  last stage. Against the expectation, seeds from scratch agree as much in the last stage as pretrained ones: they learn
  the same six classes.
Cost: about ten minutes on two busy cores, with worker processes; the trials are those of units.py. The study reads
weights/resnetsmall14.cifar100.safetensors and images/intel-scenes-6.zip, which `jaxft weights get` and `jaxft data get`
download. representation.py:FOLDER reads them from FOLDER. representation.py:small (or small,FOLDER) runs for less than
a minute, which is too short to answer the question.
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
