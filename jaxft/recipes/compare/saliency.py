"""Saliency maps of a network for a few images."""

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from jaxft.analysis.comparison import SaliencyMaps
from jaxft.recipes.load import LoadedNetwork

if TYPE_CHECKING:
    import numpy as np


def saliency_maps(
    label: str, network: LoadedNetwork, files: Sequence[str], images: "np.ndarray"
) -> Iterator[SaliencyMaps]:
    """Yields the maps of each image for its most probable class; nothing for a network without a classifier.

    Args:
      label: the name of the network.
      network: the network.
      files: the path of each image.
      images: [n, size_px, size_px, 3] uint8.
    """
    import jax.numpy as jnp
    import numpy as np

    from jaxft.analysis.guided import guided
    from jaxft.analysis.saliency import grad_cam, gradient_saliency, normalized, upsampled

    model, variables = network.model, network.arrays
    if not network.has_classifier:
        return
    inputs = network.preprocessing.apply(jnp.asarray(images))
    block = model.taps[-1].block
    classes = jnp.argmax(model.apply(variables, inputs), axis=1)
    below, above = functools.partial(model.apply, stop=block), functools.partial(model.apply, after=block)
    cam = grad_cam(below, above, variables, inputs, classes)
    maps = {
        "gradient": gradient_saliency(model.apply, variables, inputs, classes),
        "guided backpropagation": gradient_saliency(guided(model.apply), variables, inputs, classes),
        "Grad-CAM": upsampled(cam, images.shape[1:3]),
    }
    scaled = {method: np.asarray(normalized(values)) for method, values in maps.items()}
    for i, (file, image) in enumerate(zip(files, images)):
        predicted = network.class_names[int(classes[i])]
        yield SaliencyMaps(label, file, image, predicted, {method: values[i] for method, values in scaled.items()})
