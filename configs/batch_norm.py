"""What should fine-tuning do with batch norm, above all where batches are small?

A residual network for 32 x 32 pixels, trained on CIFAR-100, is fine-tuned to six kinds of scenes from twenty images of
each, in batches of 2, 8 and 32. Its running statistics rest, move, or move and are replaced at the end by those of all
training images; its scales and shifts rest or train. In batches of 32 they move in virtual batches of 2 and 8, too. The
rates grow in proportion to the batch (Goyal et al. 2017), so that as many images move the weights as far.

Source: Ioffe & Szegedy 2015; Ioffe 2017 (small batches); Hoffer, Hubara & Soudry 2017 (virtual batches); Wu & Johnson
2021 (recalibrated statistics); the reports that fine-tuning with frozen layers fails, such as Keras' pull request 9965.
Expected: in batches of 2, statistics that move lose much of the accuracy, those that rest next to nothing; replacing
them at the end gives some of it back; in batches of 32 all are alike. Virtual batches of 2 in batches of 32 lose as
batches of 2 do. Resting scales and shifts change little.
Found, test accuracy in percent with 95% intervals over three seeds, scales and shifts tuned: in batches of 2 resting
70.9 +- 6.6, tracked 63.0 +- 6.0, recalibrated 61.8 +- 1.7; of 8 65.5 +- 3.3, 69.3 +- 1.7, 68.2 +- 4.0; of 32 31.7 +-
23.3, 67.4 +- 6.5, 67.2 +- 7.3, and 60.7 +- 7.1 in virtual batches of 2, 65.2 +- 9.5 of 8. So small batches cost what
was expected, virtual ones too, but replacing the statistics gives nothing back. Not expected: where statistics rest,
training at the rates of batches of 32 (0.1 the head's) falls apart, as nothing holds the activations. Resting scales
and shifts change nothing beyond the intervals.
Data: weights/resnetsmall8.cifar100.safetensors and images/intel-scenes-6.zip, in ../shared/data beside the clone or in
a folder named behind the config, batch_norm.py:FOLDER. About 5 minutes on two cores, in worker processes. Behind
batch_norm.py:small (or small,FOLDER) is a run of a minute or two, too short to answer anything; behind :full is the
scale of the publications (ImageNet's ResNet-50 from the file named in --config.source.weights; TFDS'
oxford_flowers102), for accelerators.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall8.cifar100.safetensors", "images/intel-scenes-6.zip")
    weights, images = scale.files(*names, full=("resnet50.safetensors", "tfds:oxford_flowers102"))
    title = "Batch norm: statistics frozen, tracked and recalibrated, by the size of the batch"
    config = scale.study(title, seeds=scale.pick(3, small=1))
    config.source = {"model": scale.pick("resnetsmall8", full="resnet50"), "weights": weights}
    config.target = scale.images(
        images,
        train_per_class=scale.pick(20, small=5, full=10),
        val_per_class=scale.pick(10, small=5, full=5),
    )
    config.training = scale.training()
    config.training.schedule = {"epochs": scale.pick(15.0, small=1.0)}

    def in_batches_of(size: int) -> dict[str, list[float]]:
        rates = {
            "training.optimizer.learning_rate": [0.1 * size / 32],
            "training.layers.backbone_learning_rate": [0.01 * size / 32],
        }
        return {"training.batches.size": [size], **rates}

    sizes = scale.pick([2, 8, 32], small=[2, 15])
    config.factors = [
        {
            **in_batches_of(size),
            "training.batch_norm.statistics": ["frozen", "tracked", "recalibrated"],
            "training.batch_norm.affine": scale.pick(["tuned", "frozen"], small=["tuned"]),
        }
        for size in sizes
    ]
    virtual = scale.pick([2, 8], small=[5])
    config.factors += [{**in_batches_of(sizes[-1]), "training.batch_norm.virtual_batch_size": virtual}]
    return config
