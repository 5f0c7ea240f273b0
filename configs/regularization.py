"""Which regularizer helps fine-tuning on few images, on a target near the source and on one far from it?

A residual network for 32 x 32 pixels, trained on the photographs of CIFAR-100, is fine-tuned on ten images of each of
six kinds of scenes, and on ten sketches of each of seven things: with weight decay alone, and with one regularizer of
the usual strengths besides, towards the source (L2-SP, DELTA, distillation) or without it (BSS, label smoothing,
dropout, stochastic depth). Seeds draw the same images in all settings, so that differences are paired.

Source: Li, Grandvalet & Davoine 2018 (L2-SP); Li et al. 2019 (DELTA); Chen et al. 2019 (BSS); Li & Hoiem 2016 (LwF);
Szegedy et al. 2016, section 7; Srivastava et al. 2014; Huang et al. 2016; Li et al. 2020, "Rethinking the
hyperparameters for fine-tuning".
Expected: those towards the source help on scenes, or harm little; on sketches, which are far from the source, L2-SP
harms as its strength grows. The others are within a point or two of none.
Data: weights/resnetsmall8.cifar100.safetensors, images/intel-scenes-6.zip and images/pacs-7x4.zip, in ../shared/data
beside the clone or in a folder named behind the config, regularization.py:FOLDER. --dry-run says how long it takes.
Behind regularization.py:small (or small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full
is the scale of the publications (ImageNet's ResNet-50 from the file named in --config.source.weights; TFDS'
caltech_birds2011 and domainnet/sketch), for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    weights, near, far = scale.files(
        "weights/resnetsmall8.cifar100.safetensors",
        *("images/intel-scenes-6.zip", "images/pacs-7x4.zip"),
        full=("resnet50.safetensors", "tfds:caltech_birds2011", "tfds:domainnet/sketch"),
    )
    config = scale.study("Regularizers towards the source, and without it", seeds=scale.pick(3, small=1))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50"), "weights": weights}
    config.target = {
        "train_per_class": scale.pick(10, small=3),
        "val_per_class": scale.pick(10, small=3, full=5),
        "size_px": scale.size_px,
    }
    config.training = scale.training(learning_rate=0.1, batch_size=scale.pick(15, small=6, full=32))  # the head's rate
    config.training.layers = {"backbone_learning_rate": 0.01}
    config.training.schedule = {"epochs": scale.pick(20.0, small=1.0)}

    domain = scale.pick({"target.domain": ["sketch"]}, full={})
    targets = [{"target.data": [near]}, {"target.data": [far], **domain}]
    # With L2-SP the head alone decays to zero, as in its paper.
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
