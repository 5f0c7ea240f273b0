"""Reading the image sets that configs name, each once."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxft.config import Images
from jaxft.core.events import Listener, print_warnings
from jaxft.data.readers.image_set import ImageSet, keep_classes
from jaxft.data.readers.image_sets import load_images
from jaxft.data.sampling.unions import join_sets, set_names

READ = ("data", "domain", "label", "unreadable")  # fields that say which images are read


class ImageReader:
    """Reads image sets, and keeps them, and what is made of them, for as long as it lives.

    Args:
      emit: hears how far the reading is.
    """

    def __init__(self, emit: Listener = print_warnings):
        self.emit = emit
        self._kept: dict[Any, ImageSet] = {}

    def read(self, spec: Images, size_px: int | None) -> ImageSet:
        """Returns the images of `spec`: its data and what is joined to them, of the classes that it names.

        Joined sets have the size of the first if `size_px` is None.
        """
        plain = dataclasses.replace(Images(), **{name: getattr(spec, name) for name in READ})

        def read_all() -> ImageSet:
            first = load_images(plain, size_px, self.emit)
            if not spec.union:
                return first
            size = first.images.shape[1]
            further = [
                load_images(Images(data=data, unreadable=spec.unreadable), size, self.emit) for data in spec.union
            ]
            return join_sets(dict(zip(set_names((spec.data, *spec.union)), (first, *further))))

        whole = self.once(("read", plain, spec.union, size_px), read_all)
        return self.once(("kept", whole.fingerprint, spec.classes), lambda: keep_classes(whole, spec, self.emit))

    def once(self, key: Any, make: Callable[[], ImageSet]) -> ImageSet:
        """Returns what `make` made for the key, when it was first asked for."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]
