"""Regularizers of fine-tuning: terms of the loss and noise, most of them towards the source.

Imports the rows above `training`. A regularizer grows as a file: a subclass of `base.Regularizer`,
`REGULARIZERS.register(...)`, and its module in the list below. Terms of the loss are added, and noise is drawn, in the
order in which regularizers are registered. None acts while the head is probed.
"""

# ruff: noqa: F401, I001
import jaxft.training.regularizers.l2_sp
import jaxft.training.regularizers.delta
import jaxft.training.regularizers.bss
import jaxft.training.regularizers.distillation
import jaxft.training.regularizers.stochastic_depth
import jaxft.training.regularizers.dropout
