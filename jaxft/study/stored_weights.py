"""Weight files in the store: finding damaged and missing ones, so that a study trains their networks again."""

from pathlib import Path

from jaxft.core import interrupts
from jaxft.core.errors import UserError
from jaxft.core.events import Listener
from jaxft.store.records import Store
from jaxft.study.planned import Plan, PlannedTrial
from jaxft.weights.opening import open_file


def is_whole(path: Path) -> bool:
    """Returns whether a weight file that jaxft wrote exists and matches the digests in its metadata."""
    try:
        return open_file(path).manifest is not None
    except UserError:
        return False


def set_aside_damaged_weights(plan: Plan, store: Store, emit: Listener) -> None:
    """Renames the damaged weights of the trials and sources of a plan, and the records of these trials.

    If `execution.keep_weights` is 'all', this includes the record of a trial whose weights were stored and are missing.
    So `run_plan` runs these trials again, with bit-identical results, and trains the sources again.
    """
    with store.claim("repair"):
        keeps_all = plan.study.execution.keep_weights == "all"
        damaged = [name for trial in plan.trials for name in _damaged_files(trial, store, keeps_all)]
        for source in plan.sources:
            for digest in (source.digest, *(digest for _, digest in plan.snapshots(source))):
                path = store.weights_path(digest, "sources")
                if path.is_file() and not is_whole(path):
                    damaged.append(f"sources/{path.name}")
        store.set_aside(damaged, emit)


def _damaged_files(trial: PlannedTrial, store: Store, keeps_all: bool) -> list[str]:
    """Returns the names of the weights of a trial, if they are damaged, and of its record, if it lacks them.

    `keeps_all` is whether the study keeps the weights of all trials.
    """
    interrupts.check()
    path, record = store.weights_path(trial.digest), store.read("trials", trial.digest)
    records = [] if record is None else [f"trials/{trial.digest}.json"]
    if path.is_file():
        return [] if is_whole(path) else [f"weights/{path.name}", *records]
    return records if keeps_all and record is not None and record["stored_weights"] else []
