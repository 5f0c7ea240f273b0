"""Trials and studies."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxft.config.execution import Execution
from jaxft.config.fields import MAX_SEED, setting
from jaxft.config.images import Images
from jaxft.config.source import Source
from jaxft.config.streams import Streams
from jaxft.config.training import Training
from jaxft.config.values import fields_of, from_dict, get_at, set_at, to_dict
from jaxft.core.errors import UserError, did_you_mean
from jaxft.core.plugins import load_plugins

Block = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Trial:
    """One fine-tuning: what decides its result, and nothing else."""

    source: Source = field(default_factory=Source)
    target: Images = field(default_factory=Images)
    training: Training = field(default_factory=Training)
    streams: Streams = field(default_factory=Streams)
    seed: int = 0

    def check(self, where: str) -> None:
        """Raises a `UserError` if the trial would start from weights that nothing gives."""
        start = self.training.initialization.start
        if start != "random" and self.source.weights is None and self.source.images is None:
            raise UserError(
                f"'training.initialization.start' is {start!r}, but there is nothing to start from; give "
                "'source.weights' (a file) or 'source.images' (images to pretrain on), or choose start 'random'."
            )

    def stream_seed(self, stream: str) -> int:
        """Returns the seed of the named stream: its pin, or the trial's seed."""
        pinned = getattr(self.streams, stream)
        return self.seed if pinned is None else pinned


def parse_blocks(value: Any) -> tuple[Block, ...]:
    """Returns the blocks of factors; raises a `UserError` for what is no field of a trial, or has no levels."""
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(block, Mapping) for block in value):
        raise UserError(
            f"config field 'factors' is {value!r}; allowed: a list of blocks "
            "{'training.optimizer.learning_rate': [0.01, 0.1], ...}."
        )
    blocks = []
    for block in value:
        for name, levels in block.items():
            if str(name).split(".")[0] not in ("source", "target", "training", "streams"):
                guess = did_you_mean(str(name), [n for n, _, _ in fields_of(Trial()) if "." in n])
                raise UserError(f"factor {name!r} is not a field of a trial{guess}.")
            if not isinstance(levels, list | tuple) or not levels:
                raise UserError(f"factor {name!r} is {levels!r}; allowed: a list of one level or more.")
        _check_apart(block)
        blocks.append({name: tuple(levels) for name, levels in block.items()})
    return tuple(blocks)


def _check_apart(block: Mapping[str, Any]) -> None:
    """Checks that no factor of a block is a group of fields, which would set back its siblings, or holds another."""
    groups = {name[:i] for name, _, _ in fields_of(Trial()) for i, letter in enumerate(name) if letter == "."}
    for name in block:
        if name in groups:
            raise UserError(
                f"factor {name!r} is a group of fields; vary its fields, such as '{name}.{_first_of(name)}'."
            )
        inside = next((other for other in block if other.startswith(f"{name}.")), None)
        if inside is not None:
            raise UserError(f"factors {name!r} and {inside!r} overlap; keep one of them in a block.")


def _first_of(group: str) -> str:
    return next(iter(fields_of(get_at(Trial(), group))))[0]


def parse_seeds(value: Any) -> tuple[int, ...]:
    """Returns the seeds that a number or a list means; raises a `UserError` for anything else."""
    seeds = range(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(seeds, range | list | tuple) or not all(
        isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= MAX_SEED for seed in seeds
    ):
        raise UserError(
            f"config field 'seeds' is {value!r}; allowed: a number of seeds, or a list of seeds from 0 to {MAX_SEED}."
        )
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"config field 'seeds' is {value!r}; it needs one seed at least, and none twice.")
    return tuple(seeds)


def parse_plugins(value: Any) -> tuple[str, ...]:
    """Returns the names of plug-ins, which are loaded; raises a `UserError` if one cannot be."""
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise UserError(f"config field 'plugins' is {value!r}; allowed: a list of texts.")
    load_plugins(value)
    return tuple(value)


@dataclass(frozen=True)
class Study:
    """A set of trials: a trial, the factors that vary in it, and the seeds."""

    plugins: tuple[str, ...] = setting(
        (), "Python modules, or entry points, that register optimizers, regularizers and the like", parse=parse_plugins
    )
    title: str = setting("", "heading of the report")
    source: Source = field(default_factory=Source)
    target: Images = field(default_factory=Images)
    training: Training = field(default_factory=Training)
    streams: Streams = field(default_factory=Streams)
    seeds: tuple[int, ...] = setting((0, 1, 2), "seeds of every setting; a number n means 0 to n-1", parse=parse_seeds)
    factors: tuple[Block, ...] = setting(
        (), "product blocks {dotted field: levels}, whose union is the study's settings", parse=parse_blocks
    )
    select_over: tuple[str, ...] = setting(
        (), "factors whose level is chosen on validation, for each seed and each combination of the others"
    )
    execution: Execution = field(default_factory=Execution)

    def check(self, where: str) -> None:
        """Raises a `UserError` for a level of any factor that is not allowed, before the first step."""
        trials = self.trials()
        _check_selection(self, trials)
        for config in (*trials, self.execution):
            _check_plugins(config, self.plugins)

    def trials(self) -> tuple[Trial, ...]:
        """Returns every trial once: the union of the product blocks, each with every seed."""
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
        """Returns the dotted names of all factors, in the order in which the blocks name them."""
        return tuple(dict.fromkeys(name for block in self.factors for name in block))


def _check_plugins(config: Any, plugins: Sequence[str]) -> None:
    """Checks that what a config names is built in, or from a plug-in of the study: other processes load these alone."""
    for name, value, declared in fields_of(config):
        registry = declared.metadata.get("registry")
        if registry is None or value == declared.default:
            continue
        for text in value if isinstance(value, tuple) else (value,):
            plugin = registry[text].plugin
            if plugin and plugin not in plugins:
                raise UserError(
                    f"config field {name!r} is {text!r}, which the plug-in {plugin!r} registers; "
                    f"name it in 'plugins', which is {list(plugins)}."
                )


def _check_selection(study: Study, trials: Sequence[Trial]) -> None:
    names = study.factor_names()
    for name in study.select_over:
        if name not in names:
            raise UserError(
                f"config field 'select_over' names {name!r}{did_you_mean(name, names)}; "
                f"it is no factor of this study, which has {', '.join(names) or 'none'}."
            )
    if len(set(study.select_over)) != len(study.select_over):
        raise UserError(f"config field 'select_over' is {list(study.select_over)}; it names a factor twice.")
    selects = [t.target.val_per_class or t.target.val_fraction or t.target.manifest for t in trials]
    if study.select_over and not all(selects):
        raise UserError(
            "'select_over' chooses on validation, but 'target.val_per_class' is 0; give it images, or 'val_fraction'."
        )
