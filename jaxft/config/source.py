"""The section `source`: what is fine-tuned."""

from dataclasses import dataclass, field

from jaxft.config.fields import setting
from jaxft.config.images import Images
from jaxft.config.training import InitializationConfig, Training
from jaxft.core.errors import UserError


def _from_scratch() -> Training:
    """Returns how a network is pretrained on `source.images` by default."""
    return Training(initialization=InitializationConfig(start="random"))


@dataclass(frozen=True)
class Source:
    """What is fine-tuned: an architecture, and where its pretrained weights come from."""

    model: str = setting("cifar_resnet8", "architecture; `jaxft models` lists them")
    weights: str | None = setting(None, "file of pretrained weights, or package:NAME for that of an installed package")
    images: Images | None = setting(None, "images to pretrain on, as the study's first phase, where no file is given")
    training: Training = field(default_factory=_from_scratch)
    epoch: int | None = setting(
        None, "after which pass over `images` its weights are taken; none: those selected in the end", at_least=1
    )

    def check(self, where: str) -> None:
        """Raises a `UserError` if fields of the section contradict each other."""
        training = self.training
        if training.initialization.start != "random":
            raise UserError(
                "'source.training.initialization.start' is 'pretrained'; a source is trained from 'random' weights."
            )
        if training.classifier.kind != "network":
            raise UserError(
                f"'source.training.classifier.kind' is {training.classifier.kind!r}; a source is a network that is "
                "trained."
            )
        if self.weights is not None and self.images is not None:
            raise UserError("'source.weights' and 'source.images' are both given; pretrained weights have one origin.")
        if training.initialization.grow != "none":
            raise UserError(
                "'source.training.initialization.grow' would make another network of the source; a grown one from "
                "scratch is a model, such as 'resnetsmall8+wider64'."
            )
        if self.epoch is not None and self.images is None:
            raise UserError(
                "'source.epoch' is for sources that are trained here; give 'source.images', or another file."
            )
        if self.epoch is not None and training.batch_norm.statistics == "recalibrated":
            raise UserError(
                "'source.epoch' is of a source whose statistics are 'recalibrated' at its end alone; make "
                "'source.training.batch_norm.statistics' 'tracked'."
            )
