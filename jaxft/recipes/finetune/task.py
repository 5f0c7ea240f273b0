"""The task of `finetune`: a network, images and candidates; and its two studies."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.config import Execution, Images, Source, Streams, Study, Training, Trial, get_at
from jaxft.core.errors import UserError
from jaxft.recipes.finetune.candidates import RECIPE, Candidates, make_candidates
from jaxft.recipes.finetune.options import FinetuneOptions

if TYPE_CHECKING:
    from jaxft.data import ImageSet
    from jaxft.models import Network
    from jaxft.weights import Manifest

HELD_OUT = 0.2  # of each class: for testing if the data have no test part, then for validation
MIN_VALIDATED = 100  # validation images of all folds together that a candidate is selected on
MAX_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Task:
    """A network, labeled images, and the candidates for fine-tuning: name -> fields of `training`.

    `folds` is how many parts of the training images validate the candidates, one after another.
    """

    weights: str
    data: str
    model: "Network"
    manifest: "Manifest"
    images: "ImageSet"
    size_px: int
    folds: int
    candidates: Candidates

    @property
    def title(self) -> str:
        """Returns 'network on data', for titles."""
        return f"{self.model.architecture} on {Path(self.data).name}"

    @property
    def target(self) -> Images:
        """Returns the images, of which a part is held out for testing."""
        return Images(data=self.data, size_px=self.size_px, test_fraction=HELD_OUT)

    @property
    def execution(self) -> Execution:
        """Returns how trials run: no weights are kept."""
        return Execution(keep_weights="none")

    def study(self, title: str, target: Images, names: Sequence[str], streams: Streams, seeds: int) -> Study:
        """Returns the study of the candidates called `names`, whose weights are not kept."""
        return Study(
            title=f"{title}: {self.title}",
            source=Source(model=self.model.architecture, weights=self.weights),
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
        """Returns the study that trains every candidate on a part of the training images; its seeds are the folds."""
        target = dataclasses.replace(self.target, val_fraction=HELD_OUT, tested=False)
        streams = Streams(split=0, init=0, order=0, augment=0, fold=None)
        return self.study("Selection", target, tuple(self.candidates), streams, self.folds)

    def refit(self, name: str, seeds: int) -> Study:
        """Returns the study that trains one candidate on all training images, and keeps the weights.

        The split is the same for all seeds; the views, the new head and the order of the images vary.
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
    """Returns the task, after reading the weights and listing the images.

    Raises:
      UserError: the weights or the images cannot be used.
    """
    from jaxft.data import draw_split, load_images
    from jaxft.models import create_model
    from jaxft.weights import find_model, read_file

    weights, data = options.weights, options.data
    network = create_model(options.model or find_model(weights), num_classes=2)
    _, manifest = read_file(weights, network)
    size_px = manifest.preprocessing.size_px if options.size_px is None else options.size_px
    images = load_images(Images(data=data), size_px)
    spec = Images(data=data, val_fraction=HELD_OUT, test_fraction=HELD_OUT)
    split = draw_split(images, 0, spec, "--data")
    if not len(split.val) or not len(split.test):
        purpose = "test" if not len(split.test) else "select"
        raise UserError(f"{data!r} has too few pictures to {purpose} on; give each class five or more.")
    has_val = images.subsets[split.val[0]] == "val"
    folds = 1 if has_val else min(math.ceil(MIN_VALIDATED / len(split.val)), MAX_FOLDS)
    candidates = make_candidates(network, len(split.train), options.train)
    return Task(
        weights=weights,
        data=data,
        model=network,
        manifest=manifest,
        images=images,
        size_px=size_px,
        folds=folds,
        candidates=candidates,
    )
