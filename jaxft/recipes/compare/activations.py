"""Comparison of what networks compute for the same images: representations, single units, and saliency maps."""

import functools
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jaxft.analysis.comparison import Activations, ChangedUnitPatches
from jaxft.core.errors import UserError
from jaxft.core.text import plural
from jaxft.recipes.compare.networks import Networks
from jaxft.recipes.compare.saliency import saliency_maps
from jaxft.recipes.load import LoadedNetwork, load
from jaxft.recipes.predict import class_folders, decoded_batches, find_pictures

if TYPE_CHECKING:
    import jax
    import numpy as np
    import pandas as pd

    from jaxft.analysis.embedding import Embeddings
    from jaxft.analysis.filter_images import FilterImages
    from jaxft.analysis.similarity_matrices import TapSimilarity
    from jaxft.analysis.top_images import TopImages
    from jaxft.analysis.unit_changes import UnitChanges
    from jaxft.data.readers.archives import Member

BATCH_SIZE = 64
UNITS_PER_TAP, NUM_PATCHES = 2, 5  # units that changed most, and their top images
NUM_PICTURES = 4  # images with saliency maps
MAX_EMBEDDED = 1_000  # images of the embedding


class Side:
    """A network and its activations for images.

    Attributes:
      label: the name of the network.
      network: the network.
    """

    def __init__(self, label: str, network: LoadedNetwork):
        from jaxft.models.taps import make_apply

        self.label, self.network = label, network
        self._apply = make_apply(network.model)

    def activations(self, images: "np.ndarray") -> "dict[str, jax.Array]":
        """Returns {tap: [n, h, w, c]} of images [n, size_px, size_px, 3] uint8."""
        import jax.numpy as jnp

        return self._apply(self.network.arrays, self.network.preprocessing.apply(jnp.asarray(images)))


class ImageSet:
    """Images that are decoded whenever they are used, in batches, and their classes.

    Attributes:
      classes: the names of all classes.
      stride: every image whose number is a multiple of it is in the embedding.
    """

    def __init__(self, network: LoadedNetwork, members: "Sequence[Member]"):
        self._network, self._members = network, members
        self._folders = [folder for folder, _ in class_folders([name for name, _ in members])]
        self.classes = sorted(set(self._folders))
        self.stride = -(-len(members) // MAX_EMBEDDED)

    def batches(self) -> "Iterator[tuple[list[int], np.ndarray, np.ndarray]]":
        """Yields (numbers [n], images [n, size_px, size_px, 3] uint8, labels [n]) of the images that can be read."""
        import numpy as np

        for begin, images, problems in decoded_batches(self._network, self._members, BATCH_SIZE):
            rows = [i for i, problem in enumerate(problems) if problem is None]
            if rows:
                numbers = [begin + row for row in rows]
                yield numbers, images[rows], np.array([self.label(number) for number in numbers])

    def label(self, number: int) -> int:
        """Returns the index in `classes` of the class of an image."""
        return self.classes.index(self._folders[number])

    def file(self, number: int) -> str:
        """Returns the path of an image."""
        return str(self._members[number][0])

    def pixels(self, numbers: Sequence[int]) -> "np.ndarray":
        """Returns images [n, size_px, size_px, 3] uint8."""
        import numpy as np

        members = [self._members[number] for number in numbers]
        return np.concatenate([images for _, images, _ in decoded_batches(self._network, members, 1)])


def compare_activations(networks: Networks, pictures: Sequence[str | os.PathLike[str]]) -> Activations:
    """Returns how the activations of networks differ from those of the reference.

    The images are read in batches, so the memory does not grow with their number. The classes of the networks can
    differ.

    Args:
      networks: networks that jaxft knows; the first one is the reference.
      pictures: image files, folders or archives. The folders of images are their classes.

    Raises:
      UserError: no image can be read, or the networks have inputs of different sizes.
    """
    import pandas as pd

    members = find_pictures(pictures)
    reference, *others = (
        Side(label, load(path, networks.model)) for label, path in zip(networks.labels, networks.paths)
    )
    _check_sizes(reference, others)
    images = ImageSet(reference.network, members)
    results = [_OneComparison(reference, other, images) for other in others]
    if not results[0].numbers:
        raise UserError(f"none of the {plural(len(members), 'image')} can be read.")
    shown = _spread(results[0].numbers, NUM_PICTURES)
    files, pixels = [images.file(number) for number in shown], images.pixels(shown)
    return Activations(
        num_images=len(results[0].numbers),
        similarity=pd.concat([result.similarity_table() for result in results], ignore_index=True),
        units=pd.concat([result.unit_table() for result in results], ignore_index=True),
        changed_units=tuple(unit for result in results for unit in result.changed_units()),
        pictures=tuple(
            picture
            for side in (reference, *others)
            for picture in saliency_maps(side.label, side.network, files, pixels)
        ),
        first_filters={
            result.other.label: filters for result in results if (filters := result.first_filters()) is not None
        },
        embeddings={result.other.label: embedding for result in results if (embedding := result.embedding())},
        image_classes=tuple(
            images.classes[images.label(number)] for number in results[0].numbers if number % images.stride == 0
        ),
    )


def _check_sizes(reference: Side, others: Sequence[Side]) -> None:
    size_px = reference.network.preprocessing.size_px
    for other in others:
        if other.network.preprocessing.size_px != size_px:
            raise UserError(
                f"{reference.label} has an input of {size_px} pixels, and {other.label} of "
                f"{other.network.preprocessing.size_px}, so their activations cannot be compared; leave out the images."
            )


def _spread(numbers: Sequence[int], count: int) -> list[int]:
    """Returns up to `count` numbers at equal distances, so that images of several folders are shown."""
    count = min(count, len(numbers))
    return [numbers[i * len(numbers) // count] for i in range(count)]


class _OneComparison:
    """The activations of a network beside those of the reference, for the same images.

    Attributes:
      other: the network.
      numbers: the numbers of the images that can be read.
      changes: of the units of each tap.
    """

    def __init__(self, reference: Side, other: Side, images: ImageSet):
        from jaxft.analysis.unit_changes import unit_changes

        self.reference, self.other, self.images = reference, other, images
        self.numbers: list[int] = []
        self._features: tuple[list[Any], list[Any]] = ([], [])
        self._similarity: list[TapSimilarity] = []
        self.changes: dict[str, UnitChanges] = unit_changes(self._stream(), len(images.classes))

    def _stream(self) -> "Iterator[tuple[dict[str, jax.Array], dict[str, jax.Array], np.ndarray]]":
        import numpy as np

        from jaxft.analysis.similarity_matrices import MIN_BATCH, tap_similarity

        for numbers, pixels, labels in self.images.batches():
            pair = self.reference.activations(pixels), self.other.activations(pixels)
            if len(numbers) >= MIN_BATCH:
                self._similarity.append(tap_similarity(*pair))
            is_embedded = [number % self.images.stride == 0 for number in numbers]
            for features, activations in zip(self._features, pair):
                features.append(np.asarray(activations[list(activations)[-1]].mean((1, 2)))[is_embedded])
            self.numbers += numbers
            yield *pair, labels

    def similarity_table(self) -> "pd.DataFrame":
        """Returns the linear CKA between all taps; without rows for fewer than four images."""
        import pandas as pd

        from jaxft.analysis.similarity_matrices import TapSimilarity

        columns = ["network", "reference_tap", "tap", "value"]
        if not self._similarity:
            return pd.DataFrame(columns=columns)
        cka = functools.reduce(TapSimilarity.plus, self._similarity).cka
        taps = list(self.changes)
        rows = [(self.other.label, a, b, cka[i, j]) for i, a in enumerate(taps) for j, b in enumerate(taps)]
        return pd.DataFrame(rows, columns=columns)

    def unit_table(self) -> "pd.DataFrame":
        """Returns the means over the units of each tap."""
        import pandas as pd

        from jaxft.analysis.unit_changes import mean_of_known

        return pd.DataFrame(
            [
                {"network": self.other.label, "tap": tap, "measure": measure, "value": mean_of_known(values)}
                for tap, changes in self.changes.items()
                for measure, values in changes.measures.items()
            ]
        )

    def changed_units(self) -> Iterator[ChangedUnitPatches]:
        """Yields the units of each tap whose responses are least correlated with those in the reference."""
        from jaxft.analysis.top_images import most_changed_units

        for tap, changes in self.changes.items():
            correlation = changes.pairs.correlation
            for unit in most_changed_units(changes.top_before, changes.top_after, UNITS_PER_TAP, correlation):
                yield ChangedUnitPatches(
                    network=self.other.label,
                    tap=tap,
                    unit=unit.unit,
                    correlation=unit.similarity,
                    before=self._patches(tap, changes.top_before, unit.unit),
                    after=self._patches(tap, changes.top_after, unit.unit),
                )

    def _patches(self, tap: str, top: "TopImages", unit: int) -> "tuple[np.ndarray, ...]":
        from jaxft.analysis.receptive_fields import patches

        rows = top.is_active[:, unit].nonzero()[0][:NUM_PATCHES]
        if not len(rows):
            return ()
        pixels = self.images.pixels([self.numbers[i] for i in top.images[rows, unit]])
        return tuple(patches(pixels, self._fields[tap].boxes(top.positions[rows, unit])))

    @functools.cached_property
    def _fields(self) -> dict[str, Any]:
        """Returns the receptive fields of each tap, from the reference."""
        from jaxft.analysis.receptive_fields import receptive_fields

        network, size_px = self.reference.network, self.reference.network.preprocessing.size_px
        return {
            tap.name: receptive_fields(
                functools.partial(network.model.apply, network.arrays, stop=tap.block), (size_px, size_px, 3)
            )
            for tap in network.model.taps
        }

    def first_filters(self) -> "FilterImages | None":
        """Returns the filters of the first convolution; None if it takes no colors, or its filters have one pixel."""
        from jaxft.analysis.filter_images import filter_images
        from jaxft.core.paths import flatten

        before, after = (flatten(side.network.variables["params"]) for side in (self.reference, self.other))
        kernels = [name for name in self.reference.network.model.structure.parameters if name.endswith("/kernel")]
        shape = before[kernels[0]].shape
        if len(shape) != 4 or shape[2] != 3 or shape[0] == 1:
            return None
        return filter_images(before[kernels[0]], after[kernels[0]])

    def embedding(self) -> "Embeddings | None":
        """Returns the principal components of the pooled activations of the last tap, or None with too few images."""
        import numpy as np

        from jaxft.analysis.embedding import embed

        before, after = map(np.concatenate, self._features)
        return embed(before, after) if len(before) > 2 else None
