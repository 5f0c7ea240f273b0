"""How should the learning rate differ from layer to layer?

A residual network for 32 x 32 pixels that was trained on CIFAR-100 is fine-tuned on 20 images of each of six kinds of
scenes. The head's rate is 0.1 throughout, and the body's is that, a tenth or a hundredth of it, or nothing; or it falls
from unit to unit downwards, by one factor; or it falls from stage to stage; or the lower stages are frozen.

Source: Girshick et al. 2014 (head and body); Howard & Ruder 2018, section 3.2, and Clark et al. 2020 (layer decay);
Yosinski et al. 2014 (frozen layers).
Expected: a body that moves more slowly than the head is better than one that moves as fast and than one that rests; a
rate that falls with the depth is as good as the best single one, without a search for it; the lower stages, which are
the most general, can be frozen at little cost.
Data: weights/resnetsmall8.cifar100.safetensors and images/intel-scenes-6.zip, in ../shared/data beside the clone or in
a folder named behind the config, layer_learning_rate.py:FOLDER. --dry-run says how long it takes. Behind
layer_learning_rate.py:small (or small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full
is the scale of the publications (ImageNet's ResNet-50 from the file named in --config.source.weights; TFDS' sun397),
for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall8.cifar100.safetensors", "images/intel-scenes-6.zip")
    weights, images = scale.files(*names, full=("resnet50.safetensors", "tfds:sun397/standard-part1-120k"))
    config = scale.study("Learning rates by layer", seeds=scale.pick(5, small=2))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50"), "weights": weights}
    config.target = scale.images(images, train_per_class=20, val_per_class=scale.pick(10, full=5))
    config.training = scale.training(learning_rate=0.1, batch_size=scale.pick(30, full=64))  # the head's rate
    config.training.schedule = {"epochs": scale.pick(25.0, small=4.0)}

    lower, upper = scale.pick(("stem/.*|stage1/.*", "stage2/.*"), full=("stem/.*|stage[12]/.*", "stage[34]/.*"))
    by_stage = [((lower, 0.01), (upper, 0.1)), ((lower, "frozen"), (upper, 0.1))]
    config.factors = [
        {"training.layers.backbone_learning_rate": scale.pick([0.1, 0.01, 0.001, "frozen"], small=[0.01])},
        {"training.layers.decay": scale.pick([0.8, 0.5, 0.3], small=[0.5])},
        {
            "training.layers.rates": scale.pick(by_stage, small=by_stage[:1]),
            "training.layers.backbone_learning_rate": [0.03],
        },
    ]
    return config
