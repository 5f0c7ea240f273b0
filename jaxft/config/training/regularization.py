"""The section `training.regularization`: terms of the loss and noise, most of them towards the source."""

from dataclasses import dataclass

from jaxft.config.fields import setting


@dataclass(frozen=True)
class L2SPConfig:
    """L2-SP (Li, Grandvalet & Davoine 2018): an L2 penalty on the distance from the pretrained weights."""

    strength: float = setting(
        0.0, "L2-SP: penalty on the distance of trained layers below the head from the source", traced=True, at_least=0
    )
    rules: tuple[tuple[str, float], ...] = setting(
        (), "L2-SP: ordered rules (pattern of parameter names, strength), ahead of strength", traced=True, at_least=0
    )
    head: float = setting(0.0, "L2-SP: L2 penalty on the head, which has no source", traced=True, at_least=0)


@dataclass(frozen=True)
class DeltaConfig:
    """DELTA (Li et al. 2019): a penalty on the distance of feature maps from the source's, weighted by channel."""

    strength: float = setting(
        0.0,
        "DELTA: penalty on the distance of feature maps from the source's, channel by channel",
        traced=True,
        at_least=0,
    )


@dataclass(frozen=True)
class BSSConfig:
    """Batch spectral shrinkage (Chen et al. 2019): a penalty on the smallest singular values of a batch's features."""

    strength: float = setting(
        0.0, "BSS: penalty on the smallest singular values of a batch's features", traced=True, at_least=0
    )
    count: int = setting(1, "BSS: number of singular values that are penalized", at_least=1)


@dataclass(frozen=True)
class DistillationConfig:
    """Distillation from the source (LwF, Li & Hoiem 2016): its own head's outputs on the target images are kept."""

    strength: float = setting(
        0.0, "distillation (LwF): weight of the loss to the source network's own outputs", traced=True, at_least=0
    )
    temperature: float = setting(2.0, "distillation (LwF): temperature that divides the logits", traced=True, above=0)


@dataclass(frozen=True)
class DropoutConfig:
    """Dropout (Srivastava et al. 2014) of the head's inputs."""

    rate: float = setting(
        0.0, "dropout: fraction of the head's inputs that is set to zero in training", traced=True, at_least=0, below=1
    )


@dataclass(frozen=True)
class StochasticDepthConfig:
    """Stochastic depth (Huang et al. 2016)."""

    rate: float = setting(
        0.0,
        "stochastic depth: probability of skipping the last residual block; it falls linearly towards the first",
        traced=True,
        at_least=0,
        below=1,
    )


@dataclass(frozen=True)
class RegularizationConfig:
    """Terms of the loss and noise; a strength or rate of 0 turns each off."""

    l2_sp: L2SPConfig = L2SPConfig()
    delta: DeltaConfig = DeltaConfig()
    bss: BSSConfig = BSSConfig()
    distillation: DistillationConfig = DistillationConfig()
    dropout: DropoutConfig = DropoutConfig()
    stochastic_depth: StochasticDepthConfig = StochasticDepthConfig()
