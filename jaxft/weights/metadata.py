"""Metadata that a user gives for weights, and assumptions about metadata that a file lacks.

The preprocessing of weights is decided here. Each value comes from the first of these that has it: the user, the record
in the file or the list of published files (`read_file`), and the default of the network.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.core.errors import UserError
from jaxft.models import Preprocessing
from jaxft.models.class_names import dataset_with
from jaxft.models.registry import published
from jaxft.weights.manifest import Manifest
from jaxft.weights.options import ReadOptions

REMEDY = "give the right values with --mean and --std (in a config, source.preprocessing; in Python, preprocessing=)"


def with_given(manifest: Manifest, options: ReadOptions) -> Manifest:
    """Returns the manifest with the metadata that the user gives in place of the metadata of the file.

    A note says if the default preprocessing of the network is assumed.

    Raises:
      UserError: the number of class names differs from the number of classes, or see `replace_preprocessing`.
    """
    given, names = options.preprocessing, options.class_names
    if names and len(names) != manifest.num_classes:
        classes = f"{manifest.num_classes:,} classes" if manifest.num_classes else "no classifier"
        raise UserError(f"{len(names):,} class names are given, but {manifest.file} has {classes}.")
    manifest = dataclasses.replace(
        manifest,
        preprocessing=replace_preprocessing(manifest.preprocessing, given),
        class_names=names or manifest.class_names,
        assumed=manifest.assumed and not {"mean", "std"} <= given.keys(),
        resize_px=None if "size_px" in given else manifest.resize_px,
    )
    return dataclasses.replace(manifest, notes=(*manifest.notes, *_preprocessing_assumption(manifest)))


def replace_preprocessing(base: Preprocessing, given: Mapping[str, Any]) -> Preprocessing:
    """Returns a preprocessing with the values in `given`; all other values are those of `base`.

    Args:
      base: the preprocessing.
      given: values by name: `mean` and `std` of the three channels, in units of `range` and in the order
        `channel_order`; `size_px`, in pixels; `range`, '0..1', '0..255' or '-1..1', given with `mean` and `std`;
        `channel_order`, 'rgb' or 'bgr'.

    Raises:
      UserError: mean or standard deviation do not fit the range.
    """
    is_reversed = given.get("channel_order", base.channel_order) != base.channel_order
    order = -1 if is_reversed else 1
    mean, std = given.get("mean", base.mean[::order]), given.get("std", base.std[::order])
    value_range = {"0..1": 1.0, "0..255": 255.0, "-1..1": 1.0}.get(given.get("range", ""), base.value_range)
    if given.get("range") == "-1..1":  # (2 x - 1 - mean) / std = (x - (mean + 1) / 2) / (std / 2), for x in 0..1
        mean, std = [(value + 1) / 2 for value in mean], [value / 2 for value in std]
    if {"mean", "std"} & given.keys():
        _check_fits(mean, std, value_range)
    return Preprocessing(
        given.get("size_px", base.size_px),
        tuple(mean),
        tuple(std),
        value_range,
        given.get("channel_order", base.channel_order),
    )


def _check_fits(mean: Sequence[float], std: Sequence[float], value_range: float) -> None:
    """Checks that mean and standard deviation are in units of `value_range`."""
    is_outside = min(mean) < 0 or max(*mean, *std) > value_range
    is_of_unit_range = value_range == 255.0 and (0 < max(mean) <= 1 or max(std) < 1)
    if is_outside or is_of_unit_range:
        raise UserError(
            f"mean ({_numbers(mean)}) and std ({_numbers(std)}) do not fit pixels in 0..{value_range:g}; give the "
            "range that they are for, 0..1, 0..255 or -1..1 (--range; in a config, source.preprocessing.range)."
        )


def _preprocessing_assumption(manifest: Manifest) -> tuple[str, ...]:
    """Returns a note about the preprocessing that jaxft assumes for a file that records none; otherwise no note.

    The note names the data set that the number of classes suggests.
    """
    if not manifest.assumed:
        return ()
    return (
        f"{manifest.file} does not record its preprocessing, so jaxft assumes the default of {manifest.model}: "
        f"{preprocessing_text(manifest.preprocessing)}{_hint(manifest)}; if this is wrong, {REMEDY}.",
    )


def preprocessing_text(preprocessing: Preprocessing) -> str:
    """Returns size, channel order, range, mean and standard deviation as text."""
    return (
        f"{preprocessing.size_px} px, {preprocessing.channel_order}, 0..{preprocessing.value_range:g}, "
        f"mean ({_numbers(preprocessing.mean)}), std ({_numbers(preprocessing.std)})"
    )


def _hint(manifest: Manifest) -> str:
    """Returns the data set that the number of classes suggests, and the values of its published networks, as text."""
    dataset = dataset_with(manifest.num_classes)
    if dataset is None:
        return ""
    suggested = f"; its {manifest.num_classes:,} classes suggest {dataset}"
    key = dataset.lower().replace("-", "")
    known = {(file.preprocessing.mean, file.preprocessing.std) for file in published() if file.dataset == key}
    if len(known) != 1:
        return suggested
    (mean, std) = known.pop()
    return f"{suggested}, whose networks here use mean ({_numbers(mean)}), std ({_numbers(std)})"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
