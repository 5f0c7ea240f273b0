"""The result of a comparison of weight files, as tables and images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from jaxft.analysis.embedding import Embeddings
    from jaxft.analysis.filter_images import FilterImages


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
      agreement: one row per network, if there are images and the networks have the same classes
        (`jaxft.recipes.compare.predictions`); otherwise None.
      predictions: one row per image, with `agreement`; otherwise None.
      activations: the differences between activations, if there are images; otherwise None.
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
    activations: "Activations | None"
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Activations:
    """The differences between the activations of a reference and of other networks, for the same images.

    Attributes:
      num_images: the number of images.
      similarity: linear CKA, one row per pair of taps: `network`, `reference_tap`, `tap`, `value`.
      units: means over the units of a tap: `network`, `tap`, `measure` (of
        `jaxft.analysis.unit_changes.UnitChanges.measures`), `value`.
      changed_units: the units whose responses are least correlated with those of the reference.
      pictures: the first images, with saliency maps.
      first_filters: {network: filters of the first convolution}, if it takes colors and its filters are wider than one
        pixel.
      embeddings: {network: principal components of the features of the images}; empty with fewer than three images.
      image_classes: the class of each image in `embeddings`, the name of its folder.
    """

    num_images: int
    similarity: "pd.DataFrame"
    units: "pd.DataFrame"
    changed_units: "tuple[ChangedUnitPatches, ...]"
    pictures: "tuple[SaliencyMaps, ...]"
    first_filters: "Mapping[str, FilterImages]"
    embeddings: "Mapping[str, Embeddings]"
    image_classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ChangedUnitPatches:
    """The receptive fields of a unit in the images that activate it most, in the reference and in a network.

    Attributes:
      network: the network.
      tap: the tap of the unit.
      unit: the index of the unit.
      correlation: the correlation of its responses with those in the reference, over all images.
      before: patches [h, w, 3] uint8 in the reference, strongest activation first; empty for a dead unit.
      after: patches in the network.
    """

    network: str
    tap: str
    unit: int
    correlation: float
    before: "tuple[np.ndarray, ...]"
    after: "tuple[np.ndarray, ...]"


@dataclass(frozen=True, eq=False)
class SaliencyMaps:
    """An image, and what the most probable class of a network depends on.

    Attributes:
      network: the network, which can be the reference.
      file: the path of the image.
      image: [h, w, 3] uint8.
      predicted: the most probable class.
      maps: {method: [h, w], from 0 to 1}; the methods are 'gradient', 'guided backpropagation' and 'Grad-CAM'.
    """

    network: str
    file: str
    image: "np.ndarray"
    predicted: str
    maps: "Mapping[str, np.ndarray]"
