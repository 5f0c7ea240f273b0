"""What config files share: the scale that their argument asks for, the location of their data, and usual sections."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from jaxft.core.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

T = TypeVar("T")
_SAME: Any = object()


@dataclass(frozen=True)
class Scale:
    """The scale of a study, and the folder of its data.

    Attributes:
      name: 'small' is a run of a minute or two, 'full' is the scale of a publication, '' the usual scale.
      folder: the folder of the data files, which the scale 'full' does not need.
      config: the config file.
    """

    name: Literal["", "small", "full"]
    folder: Path
    config: Path

    @property
    def is_small(self) -> bool:
        """Tells whether this is the scale 'small'."""
        return self.name == "small"

    @property
    def is_full(self) -> bool:
        """Tells whether this is the scale 'full'."""
        return self.name == "full"

    def pick(self, default: T, *, small: T = _SAME, full: T = _SAME) -> T:
        """Returns the value for this scale; 'small' and 'full' have the usual value if they have none of their own."""
        value = small if self.is_small else full if self.is_full else default
        return default if value is _SAME else value

    def files(self, *names: str, full: Sequence[str] = ()) -> list[str]:
        """Returns the paths of the data files `names`; at the scale 'full' the names `full`, as they are.

        Raises:
          UserError: the folder lacks a file, or the study has no scale 'full'.
        """
        if self.is_full:
            if not full:
                raise UserError(f"{self.config.name} has no scale 'full'; leave it out, or give 'small'.")
            return list(full)
        for name in names:
            if not (self.folder / name).is_file():
                raise UserError(
                    f"the study's data are not all in {str(self.folder)!r}: there is no {name}; "
                    f"name their folder, --config={self.config.parent.name}/{self.config.name}:FOLDER."
                )
        return [str(self.folder / name) for name in names]

    @property
    def size_px(self) -> int:
        """Returns the side of the images in pixels."""
        return self.pick(32, full=256)

    def study(self, title: str, seeds: int) -> "ConfigDict":
        """Returns a config with a title and a number of seeds."""
        from ml_collections import ConfigDict

        config = ConfigDict()
        config.title, config.seeds = title, seeds
        return config

    def images(self, data: str, **fields: Any) -> dict[str, Any]:
        """Returns a section of images of the side `size_px`; `fields` are further fields of the section."""
        return {"data": data, "size_px": self.size_px, **fields}

    def augmentation(self, scale_min: float) -> dict[str, Any]:
        """Returns flips and crops: padded images, or at the scale 'full' 224 px of at least `scale_min` of the area."""
        crop = self.pick({"padding_px": 4}, full={"size_px": 224, "scale_min": scale_min})
        return {"flip": {"enabled": True}, "crop": crop}

    def training(self, batch_size: int | None = None, **optimizer: float) -> dict[str, Any]:
        """Returns the usual training of a target: weight decay of 5e-4, flips and crops.

        Args:
          batch_size: images in a batch; if None, the study's factors have it.
          optimizer: further fields of the section `optimizer`, such as `learning_rate`.
        """
        section = {"optimizer": {"weight_decay": 5e-4, **optimizer}, "augmentation": self.augmentation(0.3)}
        return section if batch_size is None else {**section, "batches": {"size": batch_size}}

    def source_training(self, epochs: float, batch_size: int) -> dict[str, Any]:
        """Returns the usual training of a source network, with the weights of the last epoch.

        `batch_size` counts at the usual scale; it is 256 at the scale 'full'.
        """
        return {
            "optimizer": {"learning_rate": 0.1, "weight_decay": self.pick(5e-4, full=1e-4)},
            "schedule": {"epochs": epochs},
            "batches": {"size": self.pick(batch_size, full=256)},
            "augmentation": self.augmentation(0.08),
            "selection": {"weights": "last"},
        }


def read_scale(arg: str, config_path: str) -> Scale:
    """Returns the scale that the argument of a config file asks for, and the folder of its data.

    Args:
      arg: a scale ('small' or 'full'), a folder, or both: 'small,FOLDER'. Without a folder it is shared/data beside the
        clone that the config file lies in.
      config_path: the config file, `__file__`.
    """
    first, _, rest = arg.partition(",")
    name: Literal["", "small", "full"] = "small" if first == "small" else "full" if first == "full" else ""
    config = Path(config_path).resolve()
    folder = rest if name else arg
    return Scale(name, Path(folder) if folder else config.parent.parent.parent / "shared" / "data", config)
