"""Helpers for config files: the scale of a study, the folder of its data, and standard sections."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from jaxft.core.errors import UserError
from jaxft.hub.data_folders import need_data_files

if TYPE_CHECKING:
    from ml_collections import ConfigDict

T = TypeVar("T")
_SAME: Any = object()


@dataclass(frozen=True)
class Scale:
    """The scale of a study, and the folder of its data.

    Attributes:
      name: 'small' takes a minute or two, 'full' is the scale of a publication, '' is the default scale.
      folder: the folder of the data files. If None, they are looked up in the data folders (`jaxft.hub.data_folders`).
        The scale 'full' does not use it.
      config: the config file.
    """

    name: Literal["", "small", "full"]
    folder: Path | None
    config: Path

    @property
    def is_small(self) -> bool:
        """Returns whether this is the scale 'small'."""
        return self.name == "small"

    @property
    def is_full(self) -> bool:
        """Returns whether this is the scale 'full'."""
        return self.name == "full"

    def pick(self, default: T, *, small: T = _SAME, full: T = _SAME) -> T:
        """Returns the value for this scale: `small` or `full` if given, otherwise `default`."""
        value = small if self.is_small else full if self.is_full else default
        return default if value is _SAME else value

    def files(self, *names: str, full: Sequence[str] = ()) -> list[str]:
        """Returns the paths of the data files `names`, such as 'images/caltech-101.zip'.

        At the scale 'full', returns `full` unchanged.

        Raises:
          UserError: a file is missing, or the study does not have a scale 'full'.
        """
        if self.is_full:
            if not full:
                raise UserError(
                    f"{self.config.name} does not have a scale 'full'; leave the scale out, or use 'small'."
                )
            return list(full)
        if self.folder is None:
            return [str(path) for path in need_data_files(names)]
        for name in names:
            if not (self.folder / name).is_file():
                raise UserError(
                    f"the data file {name} is not in {str(self.folder)!r}; give the folder of the data, "
                    f"--config={self.config.parent.name}/{self.config.name}:FOLDER, or leave FOLDER out."
                )
        return [str(self.folder / name) for name in names]

    @property
    def size_px(self) -> int:
        """Returns the side of the images, in pixels."""
        return self.pick(32, full=256)

    def study(self, title: str, seeds: int) -> "ConfigDict":
        """Returns a config with this title and this number of seeds."""
        from ml_collections import ConfigDict

        config = ConfigDict()
        config.title, config.seeds = title, seeds
        return config

    def images(self, data: str, **fields: Any) -> dict[str, Any]:
        """Returns a section of images with side `size_px`; `fields` are more fields of the section."""
        return {"data": data, "size_px": self.size_px, **fields}

    def augmentation(self, scale_min: float) -> dict[str, Any]:
        """Returns a section with flips, and crops of images padded by 4 pixels.

        At the scale 'full', the crops have 224 pixels and at least the fraction `scale_min` of the area.
        """
        crop = self.pick({"padding_px": 4}, full={"size_px": 224, "scale_min": scale_min})
        return {"flip": {"enabled": True}, "crop": crop}

    def training(self, batch_size: int | None = None, **optimizer: float) -> dict[str, Any]:
        """Returns the standard training on a target: a weight decay of 5e-4, flips and crops.

        Args:
          batch_size: images in a batch; if None, the section does not set it.
          optimizer: more fields of the section `optimizer`, such as `learning_rate`.
        """
        section = {"optimizer": {"weight_decay": 5e-4, **optimizer}, "augmentation": self.augmentation(0.3)}
        return section if batch_size is None else {**section, "batches": {"size": batch_size}}

    def source_training(self, epochs: float, batch_size: int) -> dict[str, Any]:
        """Returns the standard training of a source network, which keeps the weights of the last epoch.

        At the scale 'full', the batch size is 256 instead of `batch_size`.
        """
        return {
            "optimizer": {"learning_rate": 0.1, "weight_decay": self.pick(5e-4, full=1e-4)},
            "schedule": {"epochs": epochs},
            "batches": {"size": self.pick(batch_size, full=256)},
            "augmentation": self.augmentation(0.08),
            "selection": {"weights": "last"},
        }


def read_scale(arg: str, config_path: str) -> Scale:
    """Returns the scale and the data folder that the argument of a config file names.

    Args:
      arg: a scale ('small' or 'full'), a folder, or both: 'small,FOLDER'. Without a folder, the data files are looked
        up in the data folders.
      config_path: the path of the config file, `__file__`.
    """
    first, _, rest = arg.partition(",")
    name: Literal["", "small", "full"] = "small" if first == "small" else "full" if first == "full" else ""
    folder = rest if name else arg
    return Scale(name, Path(folder).expanduser() if folder else None, Path(config_path).resolve())
