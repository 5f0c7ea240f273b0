"""The sections `target` and `source.images`: a set of images, and the images of it that are used."""

from dataclasses import dataclass, field
from typing import Literal

from jaxft.config.fields import MAX_SIZE_PX, setting
from jaxft.config.sections import extended_by
from jaxft.core.errors import UserError
from jaxft.core.registries import DATA_FACTORS


@dataclass(frozen=True)
class Similarity:
    """The similarity of source classes to target classes."""

    by: Literal["wup", "path", "features"] = setting(
        "wup",
        "similarity of source classes to target classes: Wu-Palmer or path similarity of their names in WordNet, or "
        "distance of the class means of features",
    )
    model: str | None = setting(
        None, "with similarity by 'features', network that computes the features; if None, source.model"
    )
    weights: str | None = setting(
        None, "with similarity by 'features', file of the network's pretrained weights, or package:NAME", is_path=True
    )


DRAWN = (
    *("classes", "num_classes", "class_choice", "similarity", "wordnet_depth", "synsets", "train_per_class"),
    *("num_images", "imbalance", "val_per_class", "val_fraction", "train_on_val", "test_fraction", "test_per_class"),
    *("tested", "label_noise"),
)  # fields of `Images` that decide the draw; a manifest replaces them


@extended_by(DATA_FACTORS)
@dataclass(frozen=True)
class Images:
    """A set of labeled images, and the images of it that are used."""

    data: str = setting(
        "digits",
        "data set: 'digits', tfds:NAME, or the path of an .npz file, a table, a folder or an archive (docs/data.md)",
        is_path=True,
    )
    domain: str | tuple[str, ...] | None = setting(
        None, "domains whose images are used, for data with domains; if None, all"
    )
    label: str | None = setting(
        None,
        "name of the label, if images have several: a column of a table, a feature of TensorFlow Datasets, or "
        "'coarse' for CIFAR-100; if None, 'label', 'class' or 'fine'",
    )
    unreadable: Literal["fail", "skip"] = setting(
        "fail",
        "unreadable images, and classes spelled in several ways: 'fail' is an error, 'skip' leaves out these images "
        "(of a class, those with the rarer spelling)",
    )
    union: tuple[str, ...] = setting(
        (), "more data sets to add to data; classes are then named 'set/class'", is_path=True
    )
    classes: tuple[str, ...] | None = setting(None, "names of the classes that are used; if None, all")
    num_classes: int | None = setting(None, "number of classes that are used; if None, all", at_least=2)
    class_choice: Literal["random", "nearest", "farthest"] = setting(
        "random",
        "choice of the num_classes classes: random, or for a source those nearest to or farthest from the target "
        "classes",
    )
    similarity: Similarity = field(default_factory=Similarity)
    wordnet_depth: int | None = setting(
        None,
        "depth of WordNet at which drawn classes are merged under their common ancestor; if None, no merging",
        at_least=0,
    )
    synsets: str | None = setting(
        None,
        "CSV file with columns 'class' and 'synset' that corrects the WordNet meaning of class names",
        is_path=True,
    )
    size_px: int | None = setting(
        None,
        "side of the square images, in pixels; if None, the input size of the network",
        at_least=1,
        at_most=MAX_SIZE_PX,
    )
    train_per_class: int | None = setting(
        None, "training images per class; if None, all that remain after validation and test images", at_least=1
    )
    num_images: int | None = setting(
        None, "total number of training images, given instead of train_per_class", at_least=2
    )
    imbalance: float = setting(
        1.0,
        "ratio of the largest to the smallest number of training images per class; the counts fall geometrically",
        at_least=1,
    )
    val_per_class: int = setting(0, "validation images per class, in addition to the training images", at_least=0)
    val_fraction: float = setting(
        0.0, "fraction of each class that is the validation set, at least one image", at_least=0, below=1
    )
    train_on_val: bool = setting(
        False, "whether the validation split of the data is used for training, if the data have a test split too"
    )
    test_fraction: float = setting(
        0.0, "fraction of each class that is the test set, if the data have no test split", at_least=0, below=1
    )
    test_per_class: int | None = setting(
        None,
        "test images per class, drawn before all others; if None, the test split of the data, or all images that are "
        "left over",
        at_least=1,
    )
    tested: bool = setting(True, "whether the test images are evaluated at the end")
    label_noise: float = setting(
        0.0, "fraction of the training labels that are replaced by another class", at_least=0, at_most=1
    )
    gray: bool = setting(False, "whether the color of images is removed")
    shuffle_px: int | None = setting(
        None,
        "side of the blocks that images are cut into and shuffled, in pixels; if None, no shuffling",
        at_least=1,
        at_most=MAX_SIZE_PX,
    )
    manifest: str | None = setting(
        None, "manifest of an exported split: the file that lists the subset and label of each image", is_path=True
    )

    def check(self, where: str) -> None:
        """Raises a `UserError` if fields of the section contradict each other."""
        dotted = where or "target"
        if self.val_fraction and self.val_per_class:
            raise UserError(f"'{dotted}.val_fraction' and '{dotted}.val_per_class' are both given; keep one of them.")
        if self.train_on_val and (self.val_fraction or self.val_per_class):
            field_name = "val_fraction" if self.val_fraction else "val_per_class"
            raise UserError(
                f"'{dotted}.train_on_val' trains on all validation images; leave '{dotted}.{field_name}' out."
            )
        if self.manifest is not None:
            drawn_field = next((name for name in DRAWN if getattr(self, name) != getattr(Images(), name)), None)
            if drawn_field is not None:
                raise UserError(
                    f"'{dotted}.manifest' fixes the images and their labels; leave '{dotted}.{drawn_field}' out."
                )
        for one, other in (("num_images", "train_per_class"), ("test_per_class", "test_fraction")):
            if getattr(self, one) and getattr(self, other):
                raise UserError(f"'{dotted}.{one}' and '{dotted}.{other}' are both given; keep one of them.")
        if self.class_choice != "random" and self.num_classes is None:
            raise UserError(
                f"'{dotted}.class_choice' is {self.class_choice!r}; give the number of classes, '{dotted}.num_classes'."
            )
        if self.class_choice != "random" and dotted == "target":
            raise UserError(
                f"'target.class_choice' is {self.class_choice!r}, which is only for 'source.images'; a target needs "
                "'random'."
            )
        if self.similarity.by == "features" and self.similarity.weights is None:
            raise UserError(
                f"'{dotted}.similarity.by' is 'features', which needs a pretrained network; give "
                f"'{dotted}.similarity.weights'."
            )
