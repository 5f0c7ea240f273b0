"""What a user gives for a weight file: which of its state dicts, its preprocessing, its class names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading a weight file.

    Attributes:
      state_dict: which weights of a file with several networks are read, as in `load_weights`.
      preprocessing: values by name that replace the preprocessing of the file, as in
        `jaxft.weights.metadata.replace_preprocessing`.
      class_names: class names, in the order of the outputs, that replace the names in the file.
    """

    state_dict: str | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()


NO_OPTIONS = ReadOptions()
