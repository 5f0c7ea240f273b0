"""Which regulariser helps fine-tuning on few images, on a target near the source and on one far from it?

A residual network for 32 x 32 pixels, trained on the photographs of CIFAR-100, is fine-tuned on ten images of each of
six kinds of scenes, and on ten sketches of each of seven things: with weight decay alone, and with one regulariser of
the usual strengths besides, towards the source (L2-SP, DELTA, distillation) or without it (BSS, label smoothing,
dropout, stochastic depth). Seeds draw the same images in all settings, so that differences are paired.

Source: Li, Grandvalet & Davoine 2018 (L2-SP); Li et al. 2019 (DELTA); Chen et al. 2019 (BSS); Li & Hoiem 2016 (LwF);
Szegedy et al. 2016, section 7; Srivastava et al. 2014; Huang et al. 2016; Li et al. 2020, "Rethinking the
hyperparameters for fine-tuning".
Expected: those towards the source help on scenes, or harm little; on sketches, which are far from the source, L2-SP
harms as its strength grows. The others are within a point or two of none.
Data: weights/resnetsmall8.cifar100.safetensors, images/intel-scenes-6.zip and images/pacs-7x4.zip, in ../shared/data
beside the clone or in a folder named behind the config, regulariser.py:FOLDER. --dry-run says how long it takes. Behind
regulariser.py:small (or small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full is the
scale of the publications (ImageNet's ResNet-50 from the file named in --config.source.weights; TFDS' caltech_birds2011
and domainnet/sketch), for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import study_data


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    size, files = study_data(
        arg, __file__, "weights/resnetsmall8.cifar100.safetensors", "images/intel-scenes-6.zip", "images/pacs-7x4.zip"
    )
    full, small = size == "full", size == "small"
    weights, near, far = files or ("resnet50.safetensors", "tfds:caltech_birds2011", "tfds:domainnet/sketch")

    config = ConfigDict()
    config.title = "Regularisers towards the source, and without it"
    config.seeds = 1 if small else 3

    config.source = {"model": "resnet50" if full else "resnetsmall8", "weights": weights}
    config.target = {
        "train_per_class": 3 if small else 10,
        "val_per_class": 3 if small else 5 if full else 10,
        "size_px": 256 if full else 32,
    }
    config.training = {
        "optimizer": {
            "learning_rate": 0.1,  # the head's
            "weight_decay": 5e-4,
        },
        "layers": {"backbone_learning_rate": 0.01},
        "schedule": {"epochs": 1.0 if small else 20.0},
        "batches": {"size": 6 if small else 32 if full else 15},
        "augmentation": {
            "flip": {"enabled": True},
            "crop": {"size_px": 224, "scale_min": 0.3} if full else {"padding_px": 4},
        },
    }

    domain = {} if full else {"target.domain": ["sketch"]}
    targets = [{"target.data": [near]}] if small else [{"target.data": [near]}, {"target.data": [far], **domain}]
    # With L2-SP the head alone decays to zero, as in its paper.
    l2_sp = {"training.optimizer.weight_decay": [0.0], "training.regularization.l2_sp.head": [5e-4]}
    regularisers = [
        {},
        {**l2_sp, "training.regularization.l2_sp.strength": [0.01] if small else [0.01, 0.1]},
        {"training.regularization.delta.strength": [0.001] if small else [0.001, 0.01]},
        {"training.regularization.distillation.strength": [1.0]},
        {"training.regularization.bss.strength": [0.001]},
        {"training.loss.label_smoothing": [0.1]},
        {"training.regularization.dropout.rate": [0.3]},
        {"training.regularization.stochastic_depth.rate": [0.2]},
    ]
    config.factors = [{**target, **regulariser} for target in targets for regulariser in regularisers]
    return config
