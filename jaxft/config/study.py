"""Trials and studies: the root of a config, its factors and its seeds."""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxft.config.execution import Execution
from jaxft.config.fields import MAX_SEED, MAX_TRIALS, setting
from jaxft.config.images import Images
from jaxft.config.sections import plugins_used
from jaxft.config.source import Source
from jaxft.config.streams import Streams
from jaxft.config.training import Training
from jaxft.config.values import fields_of, from_dict, get_at, set_at, to_dict
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.plugins import load_plugins
from jaxft.core.registries import ANALYSES
from jaxft.core.text import shown, some_of

Block = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Trial:
    """One fine-tuning run: the sections and the seed that determine its result."""

    source: Source = field(default_factory=Source)
    target: Images = field(default_factory=Images)
    training: Training = field(default_factory=Training)
    streams: Streams = field(default_factory=Streams)
    seed: int = 0

    def check(self, where: str) -> None:
        """Raises a `UserError` if the trial needs pretrained weights and the config does not give any."""
        start = self.training.initialization.start
        if start != "random" and self.source.weights is None and self.source.images is None:
            raise UserError(
                f"'training.initialization.start' is {start!r}, which needs pretrained weights; give 'source.weights' "
                "(a file) or 'source.images' (images to pretrain on), or set start to 'random'."
            )

    def stream_seed(self, stream: str) -> int:
        """Returns the seed of a random stream: its field in `streams`, or the trial's seed if the field is None."""
        fixed_seed = getattr(self.streams, stream)
        return self.seed if fixed_seed is None else fixed_seed


def parse_blocks(value: Any) -> tuple[Block, ...]:
    """Returns the blocks of factors, from a list of dicts {dotted field: list of levels}, or from one such dict.

    Raises:
      UserError: `value` has another type, a factor is not a field of a trial, has no levels or has a level twice, or
        two factors of a block overlap.
    """
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(block, Mapping) for block in value):
        raise UserError(
            f"config field 'factors' is {shown(value)}; allowed: a list of blocks "
            "such as {'training.optimizer.learning_rate': [0.01, 0.1]}."
        )
    blocks = []
    for block in value:
        for name, levels in block.items():
            if str(name).split(".")[0] not in ("source", "target", "training", "streams"):
                guess = did_you_mean(str(name), [n for n, _, _ in fields_of(Trial()) if "." in n])
                raise UserError(f"factor {shown(name)} is not a field of a trial{guess}.")
            if not isinstance(levels, list | tuple) or not levels:
                raise UserError(f"factor {shown(name)} is {shown(levels)}; allowed: a list with at least one level.")
            _check_distinct(name, levels)
        _check_apart(block)
        blocks.append({name: tuple(map(to_dict, levels)) for name, levels in block.items()})
    return tuple(blocks)


def _check_distinct(name: str, levels: Sequence[Any]) -> None:
    """Checks that no level of a factor is given twice."""
    seen = set()
    for level in map(to_dict, levels):
        key = level if isinstance(level, str | int | float) else (repr(level),)
        if key in seen:
            raise UserError(f"factor {shown(name)} has the level {shown(level)} twice; list each level once.")
        seen.add(key)


def _check_apart(block: Mapping[str, Any]) -> None:
    """Checks that no factor of a block is a section or contains another factor.

    A level of a section would reset all its other fields.
    """
    groups = {name[:i] for name, _, _ in fields_of(Trial()) for i, letter in enumerate(name) if letter == "."}
    for name in block:
        if name in groups:
            raise UserError(
                f"factor {name!r} is a section; vary one of its fields instead, such as '{name}.{_first_of(name)}'."
            )
        inside = next((other for other in block if other.startswith(f"{name}.")), None)
        if inside is not None:
            raise UserError(f"factors {name!r} and {inside!r} of a block overlap; keep one of them.")


def _first_of(group: str) -> str:
    return next(iter(fields_of(get_at(Trial(), group))))[0]


def parse_seeds(value: Any) -> tuple[int, ...]:
    """Returns the seeds: 0 to n - 1 for a number n, or the seeds of a list.

    Raises:
      UserError: `value` has another type, a seed is out of range, or the list is empty or has a seed twice.
    """
    seeds = range(min(value, MAX_TRIALS + 1)) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(seeds, range | list | tuple) and len(seeds) > MAX_TRIALS:
        raise UserError(f"config field 'seeds' is {shown(value)}; a study has at most {MAX_TRIALS:,} seeds.")
    if not isinstance(seeds, range | list | tuple) or not all(
        isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= MAX_SEED for seed in seeds
    ):
        raise UserError(
            f"config field 'seeds' is {shown(value)}; allowed: a number of seeds, or a list of seeds from 0 to "
            f"{MAX_SEED}."
        )
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"config field 'seeds' is {shown(value)}; it needs at least one seed, each only once.")
    return tuple(seeds)


def parse_plugins(value: Any) -> tuple[str, ...]:
    """Loads the plug-ins of a list, and returns their names.

    Raises:
      UserError: `value` is not a list of strings, or a plug-in cannot be loaded.
    """
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise UserError(f"config field 'plugins' is {shown(value)}; allowed: a list of strings.")
    load_plugins(value)
    return tuple(value)


@dataclass(frozen=True)
class Study:
    """A set of trials: the sections of a base trial, the factors that vary, and the seeds."""

    plugins: tuple[str, ...] = setting(
        (),
        "plug-ins: Python modules or entry points that register optimizers, regularizers and other entries",
        parse=parse_plugins,
    )
    title: str = setting("", "title of the study, in the heading of its report")
    source: Source = field(default_factory=Source)
    target: Images = field(default_factory=Images)
    training: Training = field(default_factory=Training)
    streams: Streams = field(default_factory=Streams)
    seeds: tuple[int, ...] = setting(
        (0, 1, 2), "seeds of every setting: a list, or a number n for the seeds 0 to n - 1", parse=parse_seeds
    )
    factors: tuple[Block, ...] = setting(
        (),
        "blocks {dotted field: levels}; a block is the product of its levels, and the settings of the study are the "
        "union of the blocks",
        parse=parse_blocks,
    )
    select_over: tuple[str, ...] = setting(
        (),
        "factors whose level is selected on validation, for each seed and each combination of the other factors",
    )
    analyses: tuple[str, ...] = setting(
        (),
        "analyses of the final weights, which need execution.keep_weights 'all'; adding one to a finished study trains "
        "no trial again",
        registry=ANALYSES,
    )
    execution: Execution = field(default_factory=Execution)

    def check(self, where: str) -> None:
        """Raises a `UserError` for too many trials, a wrong level, a wrong `select_over`, or a missing plug-in."""
        num_trials = len(self.seeds) * sum(math.prod(map(len, block.values())) for block in self.factors or ({},))
        if num_trials > MAX_TRIALS:
            raise UserError(
                f"'factors' and 'seeds' give {num_trials:,} trials, but a study has at most {MAX_TRIALS:,}; use fewer "
                "levels or seeds."
            )
        trials = self.trials()
        _check_selection(self, trials)
        for trial in trials:
            if trial.seed == self.seeds[0]:  # once per setting
                _check_plugins(trial, self.plugins)
        _check_plugins(self.execution, self.plugins, "execution")

    def trials(self) -> tuple[Trial, ...]:
        """Returns all trials, each once: every setting of the union of the blocks, with every seed."""
        base = {name: to_dict(getattr(self, name)) for name in ("source", "target", "training", "streams")}
        trials: dict[Trial, None] = {}
        for block in self.factors or ({},):
            for levels in itertools.product(*block.values()):
                fields = json.loads(json.dumps(base))
                for name, level in zip(block, levels):
                    set_at(fields, name, level)
                setting_trial = from_dict(Trial, fields)
                trials.update({dataclasses.replace(setting_trial, seed=seed): None for seed in self.seeds})
        return tuple(trials)

    def factor_names(self) -> tuple[str, ...]:
        """Returns the dotted names of all factors, in the order of the blocks."""
        return tuple(dict.fromkeys(name for block in self.factors for name in block))


def _check_plugins(config: Any, plugins: Sequence[str], where: str = "") -> None:
    """Checks that every registry entry that `config` uses is built in or comes from one of the `plugins`.

    Other processes of the study load only these plug-ins, and only their versions are part of the digests.
    """
    for name, plugin in plugins_used(config, where):
        if plugin not in plugins:
            raise UserError(
                f"config field {name!r} needs the plug-in {plugin!r}; add it to 'plugins', which is {list(plugins)}."
            )


def _check_selection(study: Study, trials: Sequence[Trial]) -> None:
    """Checks that `select_over` names factors of the study, each once, and that all trials have validation images."""
    names = study.factor_names()
    for name in study.select_over:
        if name not in names:
            raise UserError(
                f"config field 'select_over' contains {shown(name)}{did_you_mean(name, names)}, which is not a factor "
                f"of this study; its factors are {some_of(names) or 'none'}."
            )
    if len(set(study.select_over)) != len(study.select_over):
        raise UserError(f"config field 'select_over' is {shown(list(study.select_over))}; name each factor once.")
    selects = [t.target.val_per_class or t.target.val_fraction or t.target.manifest for t in trials]
    if study.select_over and not all(selects):
        raise UserError(
            "'select_over' selects on validation images, but 'target.val_per_class' is 0; give 'target.val_per_class' "
            "or 'target.val_fraction'."
        )
