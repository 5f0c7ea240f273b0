"""Question: what does fine-tuning change, in which layers, and do the weights stay in the basin of the pretrained ones?

A residual network of 14 layers, pretrained on CIFAR-10 or on CIFAR-100, or with random weights, is trained on 30 images
of each of six classes of scenes, at several learning rates of the backbone. The analyses measure the relative change of
each layer, the spectra of the changes, the shifts of the batch norms, the path of the weights during training, the loss
of accuracy after each block has its initial values again, and the loss barrier between each pair of seeds.

Source: Li, Herranz & Jiang 2020 (parameter change by layer); Neyshabur et al. 2020, "What is being transferred in
transfer learning?" (barriers between pretrained siblings); Zhang et al. 2019, "Are all layers created equal?".
Expected: layers near the head change more than the first layers. The change grows with the learning rate. Pretrained
siblings have no barrier between them, networks from scratch have one.
Found: means with 95% intervals over five seeds (jaxft study --config=configs/what_changes.py --workdir=DIR); (a) is
CIFAR-10, (b) CIFAR-100, each at the learning rates 0.001, 0.01, 0.1; (c) is from scratch at 0.01, 0.1:
- Test accuracy: (a) 70.3 +- 1.9, 68.2 +- 3.1, 55.9 +- 5.2; (b) 71.9 +- 2.1, 56.6 +- 5.8, 48.2 +- 2.0; (c) 56.9 +- 2.0,
  55.6 +- 1.9. Relative change of the backbone: (a) 0.04, 0.27, 1.00; (b) 0.07, 0.49, 1.81; (c) 0.11, 0.44.
- Layers: at 0.001, all kernels of the backbone change about equally (0.04 to 0.06 in a). At 0.1, the first layers
  change most (1.4 to 2.1 in the stem and stage1, 0.7 to 1.4 in stage3 of a), against the expectation.
- Barriers, means over the ten pairs of seeds: (a) 0.001, 0.06, 0.32; (b) 0.000, 1.32, 0.66; (c) 0.87, 0.35. Siblings
  share a basin only at the learning rate at which the weights change little and the accuracy is highest. Networks from
  scratch, which start from different random weights, are apart.
- Rewind: at 0.001, no block but the head costs more than 5 points; at 0.1, the stem and the first block of each stage
  cost 21 to 32 points (a).
- Change of a kernel has a stable rank of 2 to 9, of up to 64 dimensions: lower at higher rates, lowest in the stem.
- Path: the straightness is between 0.54 and 0.81; updates are largest between steps 10 and 50.
Cost: 34 minutes on two busy cores, with worker processes. The study reads
weights/resnetsmall14.{cifar10,cifar100}.safetensors and images/intel-scenes-6.zip, which `jaxft weights get` and `jaxft
data get` download. what_changes.py:FOLDER reads them from FOLDER. what_changes.py:small (or small,FOLDER) runs for one
or two minutes, which is too short to answer the question.
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
