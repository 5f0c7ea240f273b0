"""Writes the splits of a study as manifests, which recreate them exactly. Does not run the study."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.config import Study
from jaxft.core.errors import UserError
from jaxft.core.files import check_new
from jaxft.tracking.console import Progress

if TYPE_CHECKING:
    from jaxft.data import SampledImages


def export_splits(
    study: Study, out: str | os.PathLike[str], quiet: bool = False, force: bool = False
) -> "dict[str, SampledImages]":
    """Writes a manifest for each distinct split of the sources and trials of a study. Returns the splits by digest.

    Args:
      study: the study.
      out: the folder for the manifests. Each file is named DIGEST.json.
      quiet: whether to print no progress on standard error.
      force: whether to replace files with the names of manifests and other contents, such as edited manifests.

    Raises:
      UserError: the study cannot be planned, the folder cannot be created, or such a file exists and `force` is false.
    """
    from jaxft.data import write_manifest
    from jaxft.data.sampling.manifests import is_manifest_of
    from jaxft.study.plan import make_plan

    with Progress(quiet) as progress:
        plan = make_plan(study, progress)
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {str(out)!r} cannot be created: {error.strerror}.") from None
    splits = {trial.sampled.manifest["digest"]: trial.sampled for trial in (*plan.sources, *plan.trials)}
    for digest, sampled in splits.items():
        path = folder / f"{digest}.json"
        if not path.is_file() or not is_manifest_of(path, sampled):
            check_new(path, force)
    for digest, sampled in splits.items():
        write_manifest(folder / f"{digest}.json", sampled)
    return splits
