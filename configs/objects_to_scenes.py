"""Question: does a network pretrained on objects learn scenes better than a network trained from scratch?

A small residual network for 32 x 32 pixels is pretrained on the objects of CIFAR-10, on those of CIFAR-100, or not at
all. It is fine-tuned to six classes of scenes (buildings, forest, glacier, mountain, sea, street) with twenty images
per class. In every arm, each seed selects the learning rate of the backbone on validation. The five seeds draw the same
images in all arms.

Source: Li, Herranz & Jiang 2020 (object-centric and scene-centric sources and targets); Zhou et al. 2017; Yosinski et
al. 2014.
Expected: both pretrained networks beat the one from scratch, by more than the variation between draws of images.
Found: test accuracy in percent with 95% intervals over five seeds (jaxft study --config=configs/objects_to_scenes.py
--workdir=DIR): CIFAR-10 67.9 +- 3.0, CIFAR-100 69.9 +- 3.5, from scratch 52.5 +- 2.3. The paired differences from
scratch are 15.4 +- 4.3 and 17.4 +- 4.3 points. CIFAR-100 minus CIFAR-10 is 2.0 +- 4.1 points: five seeds do not
separate them.
Cost: about 20 minutes on two cores, 36 minutes on two busy cores. The study reads
weights/resnetsmall14.{cifar10,cifar100}.safetensors and images/intel-scenes-6.zip, which `jaxft weights get` and `jaxft
data get` download. objects_to_scenes.py:FOLDER reads them from FOLDER. objects_to_scenes.py:small (or small,FOLDER)
runs for one or two minutes, which is too short to answer the question.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', or both as 'small,FOLDER'."""
    scale = read_scale(arg, __file__)
    sources = [f"weights/resnetsmall14.{source}.safetensors" for source in ("cifar10", "cifar100")]
    *weights, images = scale.files(*sources, "images/intel-scenes-6.zip")
    title = "Objects to scenes: CIFAR-10 and CIFAR-100 to six classes of scenes"
    config = scale.study(title, seeds=scale.pick(5, small=2))
    config.source = {"model": "resnetsmall14"}
    config.target = scale.images(images, train_per_class=20, val_per_class=20)
    config.training = scale.training(learning_rate=0.1, batch_size=20)  # of the head
    config.training.schedule = {"epochs": scale.pick(30.0, small=2.0)}

    # Every arm has the same number of learning rates, around the best on validation with two other seeds.
    pretrained_rates = scale.pick([0.0003, 0.001, 0.003, 0.01], small=[0.001, 0.003])
    random_rates = scale.pick([0.003, 0.01, 0.03, 0.1], small=[0.01, 0.03])
    config.factors = [
        {
            "source.weights": weights,
            "training.initialization.start": ["pretrained"],
            "training.layers.backbone_learning_rate": pretrained_rates,
        },
        {"training.initialization.start": ["random"], "training.layers.backbone_learning_rate": random_rates},
    ]
    config.select_over = ["training.layers.backbone_learning_rate"]
    return config
