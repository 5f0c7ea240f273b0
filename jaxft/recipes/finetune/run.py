"""Fine-tunes a pretrained network on labeled images, and keeps the result.

The head is fitted first, as a logistic regression (LP-FT; Kumar et al. 2022); the learning rate then falls from unit to
unit downwards (Howard & Ruder 2018), batch-norm statistics stay those of pretraining, and each image is trained on in
several fixed views, so that the activations of frozen units are computed once.
"""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

from jaxft.config import as_config_file, to_dict
from jaxft.core.events import CandidateSelected, FinetuneStarted, Listener
from jaxft.recipes.finetune.delivery import deliver_weights, predict_test_images, write_documents
from jaxft.recipes.finetune.folder import FINAL, SELECTION, make_folder
from jaxft.recipes.finetune.options import FinetuneOptions, Train
from jaxft.recipes.finetune.record import Outcome, make_record
from jaxft.recipes.finetune.selection import best_candidate, read_candidates
from jaxft.recipes.finetune.task import Task, make_task
from jaxft.recipes.scorer import finite_or_none
from jaxft.recipes.study import RunOptions, run_config
from jaxft.store.records import Store
from jaxft.tracking.console import Progress


# Eight parameters, because this is what people type in Python: each is an option of the command line.
def finetune(
    weights: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: str | None = None,
    seeds: int = 3,
    train: Train = "auto",
    size_px: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fine-tunes a network on labeled images and returns the record, which is also in `out` as finetune.json.

    Args:
      weights: a file of pretrained weights, or `package:NAME`.
      data: a folder, zip or .npz of labeled images. The result is tested on its part `test` if it has one, else on a
        fifth of each class, which is held out. A fifth of the other images validates the candidates (if there are few
        images, several fifths, one after another); then all of them are trained on.
      out: folder for the result: the weights of the first seed in the format of the pretrained file and for Flax, a
        page, a model card, and the two studies, from which the same call resumes if it was stopped.
      model: the network's name, if the file of weights does not have it.
      seeds: how many times the selected candidate is trained; test accuracy is averaged over them.
      train: the most that candidates train: 'head', 'top' (the last stage) or 'all'; 'auto' is 'top' on a CPU, and
        'all' elsewhere.
      size_px: side of the images in pixels; if None, the size that the weights expect.
      quiet: whether to print no progress on standard error.

    Raises:
      UserError: the weights, the images or the folder cannot be used.
    """
    options = FinetuneOptions(
        weights=str(weights), data=str(data), out=str(out), model=model, seeds=seeds, train=train, size_px=size_px
    )
    return run_finetune(options, quiet)


def run_finetune(options: FinetuneOptions, quiet: bool = False, debug: bool = False) -> dict[str, Any]:
    """Fine-tunes a network and returns the record; `finetune` says more.

    Args:
      options: what to fine-tune on what.
      quiet: whether to print no progress on standard error.
      debug: whether an error in a trial is raised, instead of recorded.
    """
    from jaxft.features.cache import make_feature_cache

    started = time.time()
    task = make_task(options)
    folder = make_folder(Path(options.out))
    run_options = RunOptions(quiet=quiet, debug=debug, features=make_feature_cache(task.execution))
    emit = Progress(quiet)
    emit(FinetuneStarted(task.model.architecture, task.data, len(task.images.class_names)))
    outcome = run_studies(task, folder, options.seeds, run_options, emit)
    record = make_record(outcome, time.time() - started)
    first = outcome.final.trials[0]
    record["command"] = options.command()
    record["files"] = deliver_weights(outcome.store.weights_path(first.digest), folder, task)
    predictions = predict_test_images(folder / record["files"][0], first)
    record["test"] |= {name: finite_or_none(v) for name, v in predictions.metrics.items() if name != "accuracy"}
    record["confusion"], record["mistakes"] = predictions.confusion, predictions.mistakes
    record = to_dict(record)
    write_documents(folder, record, predictions.pictures)
    return record


def run_studies(task: Task, folder: Path, seeds: int, options: RunOptions, emit: Listener) -> Outcome:
    """Runs the study that selects a candidate, then the final runs of the selected one.

    Raises:
      RuntimeError: every candidate, or a final run, failed.
    """
    selection = run_config(as_config_file(task.selection()), folder / SELECTION, options)
    candidates = read_candidates(task, selection.plan, Store(folder / SELECTION))
    best = best_candidate(candidates)
    if best is None:
        raise RuntimeError(f"every candidate diverged or failed; `jaxft results {folder / SELECTION}` says why")
    best["selected"] = True
    emit(CandidateSelected(best["name"], best["val_accuracy"]))
    options = dataclasses.replace(options, show_rates=False)
    final = run_config(as_config_file(task.refit(best["name"], seeds)), folder / FINAL, options)
    if final.num_failed:
        raise RuntimeError(
            f"{final.num_failed} of {seeds} final runs failed; `jaxft results {folder / FINAL}` says why"
        )
    return Outcome(
        task=task,
        selection=selection.plan,
        final=final.plan,
        store=Store(folder / FINAL),
        candidates=candidates,
        selected=best["name"],
    )
