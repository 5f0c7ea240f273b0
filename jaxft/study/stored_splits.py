"""Manifests of splits in the store: finding damaged ones, and writing missing ones."""

from jaxft.core.errors import UserError
from jaxft.core.events import Listener
from jaxft.data.sampling.manifests import read_manifest
from jaxft.store.records import Store
from jaxft.store.repair import names_of
from jaxft.study.planned import Plan


def set_aside_damaged_splits(store: Store, emit: Listener) -> None:
    """Renames the manifests that do not match the digest in their content and in their name, with a warning."""
    with store.claim("repair"):
        store.set_aside([name for name in names_of(store, "splits/*.json") if not _is_whole(store, name)], emit)


def _is_whole(store: Store, name: str) -> bool:
    path = store.workdir / name
    try:
        return read_manifest(path).get("digest") == path.stem
    except UserError:
        return False


def write_splits(plan: Plan, store: Store) -> None:
    """Writes the manifests of the splits of finished trials and sources that the store lacks."""
    for kind, planned in (("trials", plan.trials), ("sources", plan.sources)):
        for trial in planned:
            record = store.read(kind, trial.digest)
            if record is not None and not store.has("splits", record["manifest"]):
                store.write_split(trial.sampled.manifest)
