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

    This includes the record of a trial whose stored snapshots are missing, or, if `execution.keep_weights` is 'all',
    whose stored weights are missing. So `run_plan` runs these trials again, with bit-identical results, and trains the
    sources again.
    """
    with store.claim("repair"):
        damaged = [name for trial in plan.trials for name in _damaged_files(trial, plan, store)]
        for source in plan.sources:
            for digest in (source.digest, *(digest for _, digest in plan.snapshots(source))):
                path = store.weights_path(digest, "sources")
                if path.is_file() and not is_whole(path):
                    damaged.append(f"sources/{path.name}")
        store.set_aside(damaged, emit)


def _damaged_files(trial: PlannedTrial, plan: Plan, store: Store) -> list[str]:
    """Returns the names of the damaged weights and snapshots of a trial, and of its record, if it lacks them."""
    interrupts.check()
    weights, record = store.weights_path(trial.digest), store.read("trials", trial.digest)
    steps = plan.snapshot_steps(trial)
    paths = [weights, *(store.snapshot_path(trial.digest, step) for step in steps)]
    damaged = [str(path.relative_to(store.workdir)) for path in paths if path.is_file() and not is_whole(path)]
    if record is None:
        return damaged
    stored = [weights] if plan.study.execution.keep_weights == "all" and record["stored_weights"] else []
    stored += [store.snapshot_path(trial.digest, step) for step in steps if step in record["stored_snapshots"]]
    is_complete = not damaged and all(path.is_file() for path in stored)
    return [] if is_complete else [*damaged, f"trials/{trial.digest}.json"]
