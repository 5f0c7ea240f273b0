"""Question: what should fine-tuning do with batch norm, especially with small batches?

A residual network for 32 x 32 pixels, pretrained on CIFAR-100, is fine-tuned to six classes of scenes with twenty
images per class, in batches of 2, 8 and 32. Its running statistics are frozen, tracked, or tracked and recalibrated on
all training images at the end. Its affine parameters are frozen or tuned. Batches of 32 are also normalized in virtual
batches of 2 and 8. Learning rates are proportional to the batch size (Goyal et al. 2017), so the same number of images
moves the weights equally far.

Source: Ioffe & Szegedy 2015; Ioffe 2017 (small batches); Hoffer, Hubara & Soudry 2017 (virtual batches); Wu & Johnson
2021 (recalibrated statistics); reports that fine-tuning with frozen layers fails, such as pull request 9965 of Keras.
Expected: in batches of 2, tracked statistics lose much accuracy, frozen statistics almost none, and recalibration
recovers some of it. In batches of 32, all are equal. Virtual batches of 2 lose as much as batches of 2. Frozen affine
parameters change little.
Found: test accuracy in percent with 95% intervals over three seeds, tuned affine parameters (jaxft study
--config=configs/batch_norm.py --workdir=DIR):
- batches of 2: frozen 70.9 +- 6.6, tracked 63.0 +- 6.0, recalibrated 61.8 +- 1.7;
- batches of 8: frozen 65.5 +- 3.3, tracked 69.3 +- 1.7, recalibrated 68.2 +- 4.0;
- batches of 32: frozen 31.7 +- 23.3, tracked 67.4 +- 6.5, recalibrated 67.2 +- 7.3; virtual batches of 2 60.7 +- 7.1,
  of 8 65.2 +- 9.5.
- Conclusion: small batches and small virtual batches lose accuracy, as expected, but recalibration recovers nothing.
  Unexpectedly, frozen statistics fail at the learning rate of batches of 32 (0.1 for the head), because nothing bounds
  the activations. Frozen affine parameters change nothing beyond the intervals.
Cost: about 5 minutes on two cores, with worker processes. The study reads weights/resnetsmall8.cifar100.safetensors and
images/intel-scenes-6.zip, which `jaxft weights get` and `jaxft data get` download. batch_norm.py:FOLDER reads them from
FOLDER. batch_norm.py:small (or small,FOLDER) runs for one or two minutes, which is too short to answer the question.
batch_norm.py:full has the scale of the publications, for accelerators: torchvision's first ImageNet weights of
ResNet-50; oxford_flowers102 from TFDS.
"""

from ml_collections import ConfigDict

from jaxft.config import read_scale


def get_config(arg: str = "") -> ConfigDict:
    """Returns the study; `arg` is the folder of its data, 'small', both as 'small,FOLDER', or 'full'."""
    scale = read_scale(arg, __file__)
    names = ("weights/resnetsmall8.cifar100.safetensors", "images/intel-scenes-6.zip")
    weights, images = scale.files(*names, full=("torchvision/resnet50.IMAGENET1K_V1", "tfds:oxford_flowers102"))
    title = "Batch norm: frozen, tracked and recalibrated statistics by batch size"
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
