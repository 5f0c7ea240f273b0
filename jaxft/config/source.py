"""The section `source`: the pretrained network, or how to train it."""

from dataclasses import dataclass, field

from jaxft.config.fields import MAX_EPOCHS, setting
from jaxft.config.images import Images
from jaxft.config.preprocessing import PreprocessingConfig
from jaxft.config.training import InitializationConfig, Training
from jaxft.core.errors import UserError


def _from_scratch() -> Training:
    """Returns the default training of a source network on `source.images`."""
    return Training(initialization=InitializationConfig(start="random"))


@dataclass(frozen=True)
class Source:
    """The source network: its architecture, and its pretrained weights or the images to pretrain on."""

    model: str = setting("cifar_resnet8", "architecture of the network; `jaxft models` lists all")
    weights: str | None = setting(
        None, "file of pretrained weights, or package:NAME for the weights file of an installed package", is_path=True
    )
    state_dict: str | None = setting(
        None,
        "weights of a file with several networks: a state dict of a checkpoint, such as 'state_dict_ema', or a prefix "
        "of tensor names, such as 'encoder_q'; if None, a warning names the chosen state dict",
    )
    images: Images | None = setting(
        None, "images on which the study first pretrains the network, given instead of source.weights"
    )
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    training: Training = field(default_factory=_from_scratch)
    epoch: int | None = setting(
        None,
        "epoch of pretraining on source.images after which the source weights are taken; if None, the weights that "
        "source.training.selection selects",
        at_least=1,
        below=MAX_EPOCHS,
    )

    def check(self, where: str) -> None:
        """Raises a `UserError` if fields of the section contradict each other."""
        training = self.training
        if training.initialization.start != "random":
            raise UserError(
                f"'source.training.initialization.start' is {training.initialization.start!r}; pretraining of a source "
                "starts from 'random' weights."
            )
        if training.classifier.kind != "network":
            raise UserError(
                f"'source.training.classifier.kind' is {training.classifier.kind!r}; a source must be a 'network'."
            )
        if self.weights is not None and self.images is not None:
            raise UserError("'source.weights' and 'source.images' are both given; keep one of them.")
        if self.preprocessing.given() and self.images is not None:
            raise UserError(
                "'source.preprocessing' describes pretrained weights, but with 'source.images' the mean and std come "
                "from the images; leave 'source.preprocessing' out."
            )
        if training.initialization.grow != "none":
            raise UserError(
                "'source.training.initialization.grow' is not possible, because a source is trained from scratch; name "
                "a grown network in 'source.model', such as 'resnetsmall8+wider64'."
            )
        if self.state_dict is not None and self.weights is None:
            raise UserError("'source.state_dict' selects weights in a file; give 'source.weights', or leave it out.")
        if self.epoch is not None and self.images is None:
            raise UserError(
                "'source.epoch' needs a source that the study trains; give 'source.images', or leave 'source.epoch' "
                "out."
            )
        if self.epoch is not None and training.batch_norm.statistics == "recalibrated":
            raise UserError(
                "'source.epoch' needs batch-norm statistics after each epoch, but 'recalibrated' computes them only at "
                "the end; set 'source.training.batch_norm.statistics' to 'tracked'."
            )
