"""Question: what does fine-tuning change, in which layers, and do the weights stay in the basin of the pretrained ones?

A residual network of 14 layers, pretrained on CIFAR-10 or on CIFAR-100, or with random weights, is trained on 30 images
of each of six classes of scenes, at several learning rates of the backbone. The analyses measure the relative change of
each layer, the spectra of the changes, the shifts of the batch norms, the path of the weights during training, the loss
of accuracy after each block has its initial values again, and the loss barrier between each pair of seeds.

Source: Li, Herranz & Jiang 2020 (parameter change by layer); Neyshabur et al. 2020, "What is being transferred in
transfer learning?" (barriers between pretrained siblings); Zhang et al. 2019, "Are all layers created equal?".
Expected: layers near the head change more than the first layers. The change grows with the learning rate. Pretrained
siblings have no barrier between them, networks from scratch have one.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', or both as 'small,FOLDER'."""
    scale = read_scale(arg, __file__)
    sources = [f"weights/resnetsmall14.{source}.safetensors" for source in ("cifar10", "cifar100")]
    *weights, images = scale.files(*sources, "images/intel-scenes-6.zip")
    config = scale.study("What fine-tuning changes: layers, spectra, batch norms and basins", scale.pick(5, small=2))
    config.source = {"model": "resnetsmall14"}
    config.target = scale.images(images, train_per_class=30, val_per_class=20)
    config.training = scale.training(learning_rate=0.1, batch_size=20)  # of the head
    config.training.schedule = {"epochs": scale.pick(20.0, small=2.0)}
    config.training.selection = {"weights": "last"}  # so the last snapshot has the final weights
    config.streams = {"split": 0}  # siblings share their images, so a barrier is that of the training alone
    config.analyses = ["spectra", "batch_norm", "trajectory", "rewind", "barrier"]
    config.execution = {"snapshot_steps": scale.pick([1, 2, 5, 10, 20, 50, 100, 180], small=[1, 5, 18])}

    rates = scale.pick([0.001, 0.01, 0.1], small=[0.01])
    config.factors = [
        {
            "source.weights": weights,
            "training.initialization.start": ["pretrained"],
            "training.layers.backbone_learning_rate": rates,
        },
        {
            "training.initialization.start": ["random"],
            "training.layers.backbone_learning_rate": scale.pick([0.01, 0.1], small=[0.1]),
        },
    ]
    return config
