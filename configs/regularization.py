"""Question: which regularizer helps fine-tuning on few images, near the source and far from it?

A residual network for 32 x 32 pixels, pretrained on the photographs of CIFAR-100, is fine-tuned on ten images of each
of six classes of scenes, and on ten sketches of each of seven classes. One setting has weight decay alone. Each other
setting adds one regularizer with its usual strengths: towards the source (L2-SP, DELTA, distillation) or without it
(BSS, label smoothing, dropout, stochastic depth). Seeds draw the same images in all settings, so differences are
paired.

Source: Li, Grandvalet & Davoine 2018 (L2-SP); Li et al. 2019 (DELTA); Chen et al. 2019 (BSS); Li & Hoiem 2016 (LwF);
Szegedy et al. 2016, section 7; Srivastava et al. 2014; Huang et al. 2016; Li et al. 2020, "Rethinking the
hyperparameters for fine-tuning".
Expected: regularizers towards the source help on scenes, or do little harm. On sketches, which are far from the source,
L2-SP does more harm as its strength grows. The others are within one or two points of no regularizer.
Found: not measured yet.
Cost: --dry-run prints an estimate of the time. The study reads weights/resnetsmall8.cifar100.safetensors,
images/intel-scenes-6.zip and images/pacs-7x4.zip, which `jaxft weights get` and `jaxft data get` download.
regularization.py:FOLDER reads them from FOLDER. regularization.py:small (or small,FOLDER) runs for one or two minutes,
which is too short to answer the question. regularization.py:full has the scale of the publications, for accelerators:
torchvision's first ImageNet weights of ResNet-50; caltech_birds2011 and domainnet/sketch from TFDS.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    weights, near, far = scale.files(
        "weights/resnetsmall8.cifar100.safetensors",
        *("images/intel-scenes-6.zip", "images/pacs-7x4.zip"),
        full=("torchvision/resnet50.IMAGENET1K_V1", "tfds:caltech_birds2011", "tfds:domainnet/sketch"),
    )
    config = scale.study("Regularizers towards the source and without a source", seeds=scale.pick(3, small=1))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50"), "weights": weights}
    config.target = {
        "train_per_class": scale.pick(10, small=3),
        "val_per_class": scale.pick(10, small=3, full=5),
        "size_px": scale.size_px,
    }
    config.training = scale.training(learning_rate=0.1, batch_size=scale.pick(15, small=6, full=32))  # of the head
    config.training.layers = {"backbone_learning_rate": 0.01}
    config.training.schedule = {"epochs": scale.pick(20.0, small=1.0)}

    domain = scale.pick({"target.domain": ["sketch"]}, full={})
    targets = [{"target.data": [near]}, {"target.data": [far], **domain}]
    # With L2-SP, only the head decays to zero, as in the paper.
    l2_sp = {"training.optimizer.weight_decay": [0.0], "training.regularization.l2_sp.head": [5e-4]}
    regularizers = [
        {},
        {**l2_sp, "training.regularization.l2_sp.strength": scale.pick([0.01, 0.1], small=[0.01])},
        {"training.regularization.delta.strength": scale.pick([0.001, 0.01], small=[0.001])},
        {"training.regularization.distillation.strength": [1.0]},
        {"training.regularization.bss.strength": [0.001]},
        {"training.loss.label_smoothing": [0.1]},
        {"training.regularization.dropout.rate": [0.3]},
        {"training.regularization.stochastic_depth.rate": [0.2]},
    ]
    targets = scale.pick(targets, small=targets[:1])
    config.factors = [{**target, **regularizer} for target in targets for regularizer in regularizers]
    return config
