"""Regularizers of fine-tuning: terms of the loss, and noise. Most of them use the source.

Imports the rows above `training`. A regularizer is a file with a subclass of `base.Regularizer`, a call of
`REGULARIZERS.register(...)`, and a line in the list below. Terms of the loss are added in the order of registration,
and noise is added in the same order. No regularizer acts in a linear probe.
"""

# ruff: noqa: F401, I001
import jaxft.training.regularizers.l2_sp
import jaxft.training.regularizers.delta
import jaxft.training.regularizers.bss
import jaxft.training.regularizers.distillation
import jaxft.training.regularizers.stochastic_depth
import jaxft.training.regularizers.dropout
