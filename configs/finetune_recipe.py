"""Which of the factors belong in the recipe of `jaxft finetune`?

A residual network for 32 x 32 pixels, trained on CIFAR-100, is fine-tuned as `jaxft finetune` does it (a head fitted to
the end first, then a hundred steps of the last stage, or of the head alone), and with one thing different at a time:
what trains, the rates from layer to layer, batch norm, the schedule, the optimizer, averaging, each regularizer. Four
targets, unlike in their classes and in how they look, 20 images of each class or 10 of Caltech-101's; a fifth is
validated on, two fifths in turn. Nobody looks at test images, so that what is chosen here can be tested on other
targets.

Source: what the factors promise in their own papers (docs/factors.md).
Expected: little on so few images, as the head is at its best already; rates that fall downwards and frozen statistics
of batch norm stay ahead; averaging and L2-SP do no harm.
Found, validation accuracy in percent, the mean over the four targets, and its difference from the recipe with a 95%
interval over targets and fifths: 67.7 with SGD at 0.003; AdamW at 0.001 +1.2 +- 2.0 (at 0.0003 +1.2 +- 2.8), SAM +0.9
+- 3.5, one-cycle +0.8 +- 1.1, recalibrated statistics +0.7 +- 2.7; no decay of the rate by layers, dropout, gradual
unfreezing +0.2; L2-SP, averages, all layers -0.2 to -0.7; the head alone -1.0 to -3.5, tracked statistics -1.3,
distillation -1.4, LoRA -1.5, label smoothing -4.8 +- 4.5. Two of the best together are no better. Few intervals leave
zero out, so little is sure; AdamW took SGD's place, and all else stayed as it was.
Data: weights/resnetsmall14.cifar100.safetensors and images/{caltech-101,intel-scenes-6,pacs-7x4}.zip, in ../shared/data
beside the clone or in a folder named behind the config, finetune_recipe.py:FOLDER. About 15 minutes on two cores.
Behind finetune_recipe.py:small (or small,FOLDER) is a run of a minute or two of a few levels, too short to answer
anything; behind :full is ImageNet's ResNet-50 from the file named in --config.source.weights on sets of TFDS, for
accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import FROZEN, read_scale

# The targets at the scale 'full', of TensorFlow Datasets.
SETS = ("caltech101", "sun397/standard-part1-120k", "domainnet/clipart", "domainnet/sketch")


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    weights, *images = scale.files(
        "weights/resnetsmall14.cifar100.safetensors",
        *(f"images/{name}.zip" for name in ("caltech-101", "intel-scenes-6", "pacs-7x4")),
        full=("resnet50.safetensors", *(f"tfds:{name}" for name in SETS)),
    )
    title = "The recipe of jaxft finetune, and one thing different at a time"
    config = scale.study(title, seeds=scale.pick(2, small=1))
    config.streams = {"split": 0, "init": 0, "order": 0, "augment": 0, "fold": None}  # seeds: which fifth
    config.source = {"model": scale.pick("resnetsmall14", full="resnet50"), "weights": weights}
    config.target = {"val_fraction": 0.2, "tested": False, "size_px": scale.pick(32, full=224)}
    below = scale.pick("stem|stage1.*|stage2.*", full="stem|stage1.*|stage2.*|stage3.*")
    config.training = {
        "optimizer": {"name": "sgd", "momentum": 0.9, "learning_rate": 0.003, "weight_decay": 1e-4},
        "layers": {"decay": 0.9, "rates": ((f"({below})/.*", FROZEN),)},
        "batch_norm": {"statistics": "frozen"},
        "batches": {"size": 32},
        "schedule": {"steps": scale.pick(100, small=20)},
        "augmentation": {"views": 8, "crop": {"scale_min": 0.5}, "flip": {"enabled": True}},
        "selection": {"weights": "last"},
        "linear_probe": {"optimizer": "lbfgs", "epochs": 60.0, "weight_decay": 0.01},
    }

    targets = [{"target.data": [name], "target.train_per_class": [20]} for name in images]
    if not scale.is_full:
        caltech, scenes, domains = images
        targets = [
            {"target.data": [caltech]},
            {"target.data": [scenes], "target.train_per_class": [20]},
            {"target.data": [domains], "target.domain": ["art_painting", "sketch"]},
        ]
    whole = {"training.layers.rates": [()]}
    adamw = {"training.optimizer.name": ["adamw"], "training.optimizer.learning_rate": [0.0003, 0.001]}
    levels = [
        {"training.optimizer.learning_rate": [0.001, 0.003, 0.01]},
        {**whole, "training.optimizer.learning_rate": [0.001, 0.003]},
        {**whole, "training.layers.unfreeze_epochs": [(1.0, 2.0, 3.0)]},
        {**whole, "training.layers.tune": ["head"], "training.linear_probe.weight_decay": [0.003, 0.01, 0.03]},
        {**whole, "training.layers.tune": ["batch_norm", "lora"]},
        {"training.layers.decay": [0.7, 1.0]},
        {"training.batch_norm.statistics": ["tracked", "recalibrated"]},
        {"training.schedule.shape": ["onecycle"]},
        adamw,
        {"training.optimizer.sam_radius": [0.05]},
        {"training.optimizer.ema_decay": [0.95]},
        {"training.regularization.l2_sp.strength": [0.1], "training.optimizer.weight_decay": [0.0]},
        {"training.regularization.distillation.strength": [0.3]},
        {"training.loss.label_smoothing": [0.1]},
        {"training.regularization.dropout.rate": [0.2]},
        {**adamw, "training.schedule.shape": ["onecycle"]},  # what was best of these, together
        {**adamw, "training.optimizer.sam_radius": [0.05]},
    ]
    if scale.is_small:
        targets, levels = targets[1:2], [levels[0], levels[11]]
    config.factors = [target | level for target in targets for level in levels]
    return config
