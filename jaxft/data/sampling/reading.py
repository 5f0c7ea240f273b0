"""Reading of image sets, each only once."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxft.config import Images
from jaxft.core.events import Listener, print_warnings
from jaxft.data.readers.image_set import ImageSet, keep_classes
from jaxft.data.readers.image_sets import load_images
from jaxft.data.sampling.unions import join_sets, set_names

READ = ("data", "domain", "label", "unreadable")  # fields that determine the images that are read


class ImageReader:
    """Reads image sets, and caches them and image sets derived from them.

    Args:
      emit: receives progress events and warnings.
    """

    def __init__(self, emit: Listener = print_warnings):
        self.emit = emit
        self._cache: dict[Any, ImageSet] = {}

    def read(self, spec: Images, size_px: int | None) -> ImageSet:
        """Returns the images of the classes `spec.classes` of `spec.data`, joined with the data sets of `spec.union`.

        If `size_px` is None, the images keep their size, and joined sets get the size of the first.
        """
        plain = dataclasses.replace(Images(), **{name: getattr(spec, name) for name in READ})

        def read_all() -> ImageSet:
            first = load_images(plain, size_px, self.emit)
            if not spec.union:
                return first
            size = first.images.shape[1]
            joined = [
                load_images(Images(data=data, unreadable=spec.unreadable), size, self.emit) for data in spec.union
            ]
            return join_sets(dict(zip(set_names((spec.data, *spec.union)), (first, *joined))))

        images = self.once(("read", plain, spec.union, size_px), read_all)
        return self.once(("kept", images.fingerprint, spec.classes), lambda: keep_classes(images, spec, self.emit))

    def once(self, key: Any, make: Callable[[], ImageSet]) -> ImageSet:
        """Returns the cached image set of `key`; the first call computes it with `make`."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]
