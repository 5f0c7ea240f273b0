"""The sections `target` and `source.images`: a set of images, and how much of it is used."""

from dataclasses import dataclass, field
from typing import Literal

from jaxft.config.fields import setting
from jaxft.config.sections import extended_by
from jaxft.core.errors import UserError
from jaxft.core.registries import DATA_FACTORS


@dataclass(frozen=True)
class Similarity:
    """What makes a class near to those of the target."""

    by: Literal["wup", "path", "features"] = setting(
        "wup", "Wu and Palmer's or the path similarity of names in WordNet, or the distance of class means of features"
    )
    model: str | None = setting(None, "network whose pooled features they are; none: the source's own architecture")
    weights: str | None = setting(None, "file of its pretrained weights, or package:NAME")


DRAWN = (
    *("classes", "num_classes", "class_choice", "similarity", "wordnet_depth", "synsets", "train_per_class"),
    *("num_images", "imbalance", "val_per_class", "val_fraction", "train_on_val", "test_fraction", "test_per_class"),
    *("tested", "label_noise"),
)  # fields of `Images` that decide what is drawn, and that a manifest takes the place of


@extended_by(DATA_FACTORS)
@dataclass(frozen=True)
class Images:
    """A set of labeled images, and how much of it is used."""

    data: str = setting(
        "digits", "'digits', tfds:NAME, or the path of an .npz file, a table, a folder or an archive (docs/data.md)"
    )
    domain: str | tuple[str, ...] | None = setting(None, "domains to keep, of images that have any; none: all")
    label: str | None = setting(None, "which labels, where images have several: a column, a feature, or 'coarse'")
    unreadable: Literal["fail", "skip"] = setting(
        "fail",
        "pictures that cannot be read, or whose class is spelled in several ways: an error, or left out and noted",
    )
    union: tuple[str, ...] = setting((), "further data, whose classes stand beside those of `data`: 'set/class'")
    classes: tuple[str, ...] | None = setting(None, "names of the classes to keep; none: all")
    num_classes: int | None = setting(None, "classes to keep, of these; none: all", at_least=2)
    class_choice: Literal["random", "nearest", "farthest"] = setting(
        "random", "which of them: drawn, or those of a source nearest to or farthest from the target's classes"
    )
    similarity: Similarity = field(default_factory=Similarity)
    wordnet_depth: int | None = setting(
        None, "merge classes, once images are drawn, under what is above them at a depth of WordNet", at_least=0
    )
    synsets: str | None = setting(None, "CSV file with columns 'class' and 'synset' that corrects what names mean")
    size_px: int | None = setting(None, "side of the square images; none: the network's own", at_least=1)
    train_per_class: int | None = setting(None, "images a class to train on; none: all left over", at_least=1)
    num_images: int | None = setting(None, "images to train on in all, in place of so many a class", at_least=2)
    imbalance: float = setting(
        1.0,
        "most over fewest images a class to train on; the others fall from class to class by one factor",
        at_least=1,
    )
    val_per_class: int = setting(0, "images a class to select on, besides those to train on", at_least=0)
    val_fraction: float = setting(0.0, "share of each class to select on, one image at least", at_least=0, below=1)
    train_on_val: bool = setting(False, "train on the data's own validation part too, where there is a test part")
    test_fraction: float = setting(
        0.0, "share of each class to test on, where the data have no test part of their own", at_least=0, below=1
    )
    test_per_class: int | None = setting(
        None,
        "images a class to test on, drawn before all others; none: the data's test part, or all left over",
        at_least=1,
    )
    tested: bool = setting(True, "test at the end, on the images that are left for it; if not, nobody looks at them")
    label_noise: float = setting(0.0, "share of the training labels that another class replaces", at_least=0, at_most=1)
    gray: bool = setting(False, "take the color away")
    shuffle_px: int | None = setting(None, "side of the blocks that images are cut into and shuffled", at_least=1)
    manifest: str | None = setting(None, "file of a split that was exported: which images have which part and label")

    def check(self, where: str) -> None:
        """Raises a `UserError` if fields of the section contradict each other."""
        dotted = where or "target"
        if self.val_fraction and self.val_per_class:
            raise UserError(f"'{dotted}.val_fraction' and '{dotted}.val_per_class' are both given; keep one of them.")
        if self.train_on_val and (self.val_fraction or self.val_per_class):
            raise UserError(f"'{dotted}.train_on_val' leaves no validation part to select on; ask for no images of it.")
        if self.manifest is not None:
            given = next((name for name in DRAWN if getattr(self, name) != getattr(Images(), name)), None)
            if given is not None:
                raise UserError(
                    f"'{dotted}.manifest' says which images are used with which labels; leave '{dotted}.{given}' out."
                )
        for one, other in (("num_images", "train_per_class"), ("test_per_class", "test_fraction")):
            if getattr(self, one) and getattr(self, other):
                raise UserError(f"'{dotted}.{one}' and '{dotted}.{other}' are both given; keep one of them.")
        if self.class_choice != "random" and self.num_classes is None:
            raise UserError(f"'{dotted}.class_choice' is {self.class_choice!r}; '{dotted}.num_classes' says how many.")
        if self.class_choice != "random" and dotted == "target":
            raise UserError(
                f"'target.class_choice' is {self.class_choice!r}, which is for 'source.images'; a target's are "
                "'random'."
            )
        if self.similarity.by == "features" and self.similarity.weights is None:
            raise UserError(
                f"'{dotted}.similarity.by' is 'features'; '{dotted}.similarity.weights' says of which network."
            )
