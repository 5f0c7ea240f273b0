"""Question: which training factors belong in the recipe of `jaxft finetune`?

A residual network for 32 x 32 pixels, pretrained on CIFAR-100, is fine-tuned with the recipe of `jaxft finetune`: a
head is fitted first, followed by a hundred steps of the last stage or of the head alone. Each other setting changes one
factor: trainable layers, layer-wise learning rates, batch norm, schedule, optimizer, weight averaging, or one
regularizer. The four targets differ in their classes and their style. They have 20 training images per class, or 10 for
Caltech-101. One fifth is used for validation, for two different fifths. No test images are evaluated, so the choice can
be tested on other targets.

Source: the papers of the factors (docs/factors.md).
Expected: small differences with so few images, because the fitted head is already good. Layer-wise decay and frozen
batch-norm statistics stay best. Weight averaging and L2-SP do no harm.
Found: mean validation accuracy over the four targets in percent. The recipe with SGD at 0.003 has 67.7. The other
figures are differences from it, with 95% intervals over targets and fifths where given (jaxft study
--config=configs/finetune_recipe.py --workdir=DIR):
- AdamW at 0.001 +1.2 +- 2.0, AdamW at 0.0003 +1.2 +- 2.8, SAM +0.9 +- 3.5, one-cycle schedule +0.8 +- 1.1, recalibrated
  statistics +0.7 +- 2.7;
- no layer-wise decay, dropout, gradual unfreezing +0.2 each; L2-SP, weight averaging, all layers -0.2 to -0.7;
- head alone -1.0 to -3.5, tracked statistics -1.3, distillation -1.4, LoRA -1.5, label smoothing -4.8 +- 4.5.
- Combinations of two of the best are no better.
- Test accuracy on other targets in percent with 95% intervals over three seeds (resnetsmall14 from CIFAR-100 at 32 px):
  Fashion-MNIST in gray, 6,000 training and 2,000 test images, SGD 88.7 +- 0.2, AdamW 89.7 +- 0.7; PACS photographs, 140
  training and 70 test images, SGD 69.5 +- 2.0, AdamW 71.4 +- 7.1; PACS cartoons, 140 training and 70 test images, 89.5
  +- 4.1 with both, because a head alone was selected.
- Conclusion: few intervals exclude zero. `jaxft finetune` uses AdamW instead of SGD and is otherwise the recipe above.
Cost: about 15 minutes on two cores. The study reads weights/resnetsmall14.cifar100.safetensors and
images/{caltech-101,intel-scenes-6,pacs-7x4}.zip, which `jaxft weights get` and `jaxft data get` download.
finetune_recipe.py:FOLDER reads them from FOLDER. finetune_recipe.py:small (or small,FOLDER) runs a few levels for one
or two minutes, which is too short to answer the question. finetune_recipe.py:full has the scale of the publications,
for accelerators: torchvision's first ImageNet weights of ResNet-50; four data sets from TFDS.
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
        full=("torchvision/resnet50.IMAGENET1K_V1", *(f"tfds:{name}" for name in SETS)),
    )
    title = "The recipe of jaxft finetune, and changes of one factor"
    config = scale.study(title, seeds=scale.pick(2, small=1))
    config.streams = {"split": 0, "init": 0, "order": 0, "augment": 0, "fold": None}  # one fold per seed
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
        {**adamw, "training.schedule.shape": ["onecycle"]},  # combinations of the best
        {**adamw, "training.optimizer.sam_radius": [0.05]},
    ]
    if scale.is_small:
        targets, levels = targets[1:2], [levels[0], levels[11]]
    config.factors = [target | level for target in targets for level in levels]
    return config
