"""The task of `finetune`: a network, images and candidates, and its two studies."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxft.config import Execution, Images, Source, Streams, Study, Training, Trial, get_at, to_dict
from jaxft.core.digests import short_digest
from jaxft.core.errors import UserError
from jaxft.recipes.finetune.candidates import RECIPE, Candidates, make_candidates
from jaxft.recipes.finetune.options import FinetuneOptions

if TYPE_CHECKING:
    from jaxft.data import ImageSet
    from jaxft.models import Network
    from jaxft.weights import Manifest

HELD_OUT = 0.2  # fraction of each class for testing, if the data has no test split, and for validation
MIN_VALIDATED = 100  # minimum number of validation images of all folds together
MAX_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Task:
    """A network, labeled images, and candidates for fine-tuning.

    Attributes:
      source: the config of the pretrained network: architecture, weight file, state dict and preprocessing.
      data: the path of the labeled images.
      model: the pretrained network, with a head of another number of classes.
      manifest: the manifest of the weight file.
      images: the labeled images.
      size_px: the side length of the images in pixels.
      folds: the number of folds that validate the candidates.
      candidates: name -> fields of `training`.
      identity: the value of each option that can change the result; for files, a digest of their contents.
    """

    source: Source
    data: str
    model: "Network"
    manifest: "Manifest"
    images: "ImageSet"
    size_px: int
    folds: int
    candidates: Candidates
    identity: Mapping[str, Any]

    @property
    def title(self) -> str:
        """Returns a title, such as 'resnet18 on my_pictures'."""
        return f"{self.model.architecture} on {Path(self.data).name}"

    @property
    def target(self) -> Images:
        """Returns the config of the images, with a fraction for testing."""
        return Images(data=self.data, size_px=self.size_px, test_fraction=HELD_OUT)

    @property
    def execution(self) -> Execution:
        """Returns the config of the execution. Trials store no weights."""
        return Execution(keep_weights="none")

    def study(self, title: str, target: Images, names: Sequence[str], streams: Streams, seeds: int) -> Study:
        """Returns a study of some candidates, which stores no weights.

        Args:
          title: the title of the study, before the name of the network and the data.
          target: the images.
          names: the names of the candidates.
          streams: the random streams.
          seeds: the number of seeds.
        """
        return Study(
            title=f"{title}: {self.title}",
            source=self.source,
            target=target,
            training=Training.of({**RECIPE, "augmentation.views": self.candidates[names[0]]["augmentation.views"]}),
            streams=streams,
            seeds=tuple(range(seeds)),
            factors=tuple(
                {f"training.{field}": (level,) for field, level in self.candidates[name].items()} for name in names
            ),
            execution=self.execution,
        )

    def selection(self) -> Study:
        """Returns the study that trains all candidates on some of the training images. Its seeds are the folds."""
        target = dataclasses.replace(self.target, val_fraction=HELD_OUT, tested=False)
        streams = Streams(split=0, init=0, order=0, augment=0, fold=None)
        return self.study("Selection", target, tuple(self.candidates), streams, self.folds)

    def refit(self, name: str, seeds: int) -> Study:
        """Returns the study that trains one candidate on all training images, and stores the weights.

        All seeds have the same split. The views, the new head and the order of the images vary.
        """
        target = dataclasses.replace(self.target, train_on_val=True)
        study = self.study("Final runs", target, [name], Streams(split=0), seeds)
        return dataclasses.replace(study, execution=dataclasses.replace(self.execution, keep_weights="all"))

    def name_of(self, trial: Trial) -> str:
        """Returns the name of the candidate that a trial trains."""
        return next(
            name
            for name, fields in self.candidates.items()
            if all(get_at(trial.training, field) == level for field, level in fields.items())
        )


def make_task(options: FinetuneOptions) -> Task:
    """Reads the weights and the images, and returns the task.

    Raises:
      UserError: the weights or the images cannot be used.
    """
    from jaxft.data import draw_split, load_images
    from jaxft.models import create_model
    from jaxft.weights import ReadOptions, find_model, read_file

    weights, data = options.weights, options.data
    network = create_model(options.model or find_model(weights, options.state_dict), num_classes=2)
    source = Source(
        model=network.architecture,
        weights=weights,
        state_dict=options.state_dict,
        preprocessing=options.preprocessing,
    )
    _, manifest = read_file(weights, network, ReadOptions(options.state_dict, options.preprocessing.given()))
    size_px = manifest.preprocessing.size_px if options.size_px is None else options.size_px
    images = load_images(Images(data=data), size_px)
    spec = Images(data=data, val_fraction=HELD_OUT, test_fraction=HELD_OUT)
    split = draw_split(images, 0, spec, "--data")
    if not len(split.val) or not len(split.test):
        purpose = "testing" if not len(split.test) else "validation"
        raise UserError(f"{data!r} has too few images for {purpose}; each class needs at least five.")
    has_val = images.subsets[split.val[0]] == "val"
    folds = 1 if has_val else min(math.ceil(MIN_VALIDATED / len(split.val)), MAX_FOLDS)
    candidates = make_candidates(network, len(split.train), options.train)
    return Task(
        source=source,
        data=data,
        model=network,
        manifest=manifest,
        images=images,
        size_px=size_px,
        folds=folds,
        candidates=candidates,
        identity=_identity(options, manifest, images, size_px),
    )


def _identity(options: FinetuneOptions, manifest: "Manifest", images: "ImageSet", size_px: int) -> dict[str, Any]:
    """Returns the value of each option that can change the result; for files, a digest of their contents."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options) if field.name != "out"}
    preprocessing = to_dict(values.pop("preprocessing"))  # values that JSON keeps as they are
    resolved = {"size_px": size_px, "model": manifest.model, "weights": manifest.sha256}
    return {**resolved, "data": short_digest(images.fingerprint, *images.ids)} | {
        name: value for name, value in (preprocessing | values).items() if name not in (*resolved, "data")
    }
