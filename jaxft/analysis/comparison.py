"""The result of a comparison of weight files, as tables."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Comparison:
    """The differences between a reference and other weights of the same network.

    Attributes:
      labels: a short name for each weight file; the first one is the reference.
      model: the name of the network; empty if jaxft does not know it, so tensors have their names in the files.
      num_values: the number of compared parameters.
      changes: one row per value: `network`, `level` ('total', 'layer', 'leaf', 'batch_norm'), `name`, `measure`,
        `value`. The measures of change are those of `jaxft.analysis.measures.MEASURES`; kernels also have
        'stable_rank' and 'top_energy', the share of the largest singular value in the squared change. 'batch_norm' has
        the root mean square over the channels of the shift of 'scale', 'bias', 'mean' and 'log_variance'.
      filters: the filters that changed most: `network`, `leaf`, `filter` (index of the output channel), and `value`,
        ||w - w0|| of the filter divided by the root mean square of ||w0|| over the filters of the kernel.
      pairs: for each pair of networks without the reference: `first`, `second`, `name` (a layer or 'total'), `measure`
        ('distance', 'cosine', 'change_cosine', the cosine of the changes from the reference) and `value`.
      agreement: one row per network, if there are images (`jaxft.recipes.compare.predictions`); otherwise None.
      predictions: one row per image, if there are images; otherwise None.
      notes: sentences about arrays, classes and images that are left out.
    """

    labels: tuple[str, ...]
    model: str
    num_values: int
    changes: "pd.DataFrame"
    filters: "pd.DataFrame"
    pairs: "pd.DataFrame"
    agreement: "pd.DataFrame | None"
    predictions: "pd.DataFrame | None"
    notes: tuple[str, ...]
