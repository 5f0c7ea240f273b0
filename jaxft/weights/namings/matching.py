"""Detection of the naming of a weight file, and of the prefix of its tensor names.

Training code wraps networks, so the names in a file can have prefixes: `module.` (DataParallel), `_orig_mod.`
(torch.compile), `model.`, `backbone.`, `encoder_q.`. And a file can contain tensors of other networks. The network is
found as the names that remain if a prefix is removed, in all formats alike.
"""

import functools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from jaxft.core.errors import UserError
from jaxft.core.paths import layer_of
from jaxft.core.text import some_of
from jaxft.models import Network
from jaxft.weights.namings.naming import Naming, find_port, namings_of

COLLECTIONS = ("params/", "batch_stats/", "counters/")
# Components of names that wrappers insert at any depth: DataParallel, torch.compile, FSDP, activation checkpointing.
WRAPPERS = re.compile(r"(?:^|(?<=[./]))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)[./]")
COUNTERS = ("n_averaged",)  # of AveragedModel, beside the network
MOST_NAMED = 3  # prefixes that an error or a note names


@dataclass(frozen=True)
class Fit:
    """How the tensor names of a file belong to a network.

    Attributes:
      naming: the naming of the network.
      names: tensor name in the naming -> tensor name in the file, for all tensors of the network.
      left_over: tensor names in the file that could belong to the backbone, but that the naming lacks, such as
        `layer1.7.conv1.weight`; if the file does not fit, all other names.
      foreign: tensor names in the file that belong to no part of the backbone, such as `criterion.weight`.
      removed: the prefixes that `names` has removed.
      is_complete: whether the file has all tensors of the backbone.
    """

    naming: Naming
    names: Mapping[str, str]
    left_over: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    is_complete: bool = True


def find_fit(names: Collection[str], model: Network, file: str, prefix: str | None = None) -> Fit:
    """Returns how the tensor names of a file belong to `model`: the naming, the prefix, and foreign names.

    A naming and a prefix fit if the file has all names of the backbone. If none fits, the result is the naming and the
    prefix that share the most names with the file, so that an error can list missing and unused tensors.

    Args:
      names: the tensor names.
      model: the network.
      file: name of the file, for the message.
      prefix: prefix of the names of the network, such as `encoder_q`. If None, the prefix is detected.

    Raises:
      UserError: two namings or two prefixes fit, or no name of the network has the prefix.
    """
    tables = {naming: tensor_names(model, naming) for naming in namings_of(model).values()}
    bare = _without_wrappers(names, {name for table in tables.values() for name in table})
    shared = {(naming, start): of for naming, table in tables.items() for start, of in _shared(bare, table).items()}
    if prefix is not None:
        wanted = WRAPPERS.sub("", _with_separator(prefix))
        shared = {choice: of for choice, of in shared.items() if _with_separator(choice[1]) == wanted}
        bare = {name: raw for name, raw in bare.items() if wanted in {_with_separator(p) for p, _ in _splits(name)}}
        if prefix and not shared:
            raise UserError(
                f"{file} has no state dict {prefix!r}, and no tensor of {model.architecture} has this prefix."
            )
    fitting = [choice for choice, of in shared.items() if _needed(tables[choice[0]], model) <= of.keys()]
    _check_prefixes({start for _, start in fitting}, model, file)
    fitting = [choice for choice in fitting if len(shared[choice]) == len(bare)] or fitting
    if any(tables[naming] != tables[fitting[0][0]] for naming, _ in fitting[1:]):
        raise UserError(
            f"the tensors of {file} fit several namings of {model.architecture}, which disagree: "
            f"{', '.join(naming.name for naming, _ in fitting)}."
        )
    if not shared:
        return Fit(next(iter(tables)), {}, tuple(bare.values()), is_complete=False)
    best = fitting[0] if fitting else max(shared, key=lambda choice: len(shared[choice]))
    stems = {_stem(name) for name in _needed(tables[best[0]], model)}
    return _make_fit(best, shared[best], bare, stems if fitting else None)


def _make_fit(
    choice: tuple[Naming, str], shared: Mapping[str, str], bare: Mapping[str, str], stems: Collection[str] | None
) -> Fit:
    """Returns the fit of a naming and a prefix.

    Args:
      choice: the naming and the prefix.
      shared: tensor name in the naming -> tensor name without wrappers, for all tensors of the network.
      bare: tensor name without wrappers -> tensor name in the file, for all tensors.
      stems: the first components of all names of the backbone; None if the file does not have the whole backbone.
    """
    naming, prefix = choice
    used = set(shared.values())
    unused = {name: raw for name, raw in bare.items() if name not in used}
    foreign = {name: raw for name, raw in unused.items() if stems is not None and _is_foreign(name, prefix, stems)}
    names = {name: bare[wrapped] for name, wrapped in shared.items()}
    return Fit(
        naming=naming,
        names=names,
        left_over=tuple(raw for name, raw in unused.items() if name not in foreign),
        foreign=tuple(foreign.values()),
        removed=_removed(names, prefix),
        is_complete=stems is not None,
    )


def find_naming(names: Collection[str], model: Network, file: str) -> Naming:
    """Returns the naming of `model` for the tensor names of a file without prefixes; see `find_fit`.

    Raises:
      UserError: two namings fit, and assign the tensors to different leaves.
    """
    return find_fit(names, model, file, "").naming


def _check_prefixes(prefixes: Collection[str], model: Network, file: str) -> None:
    if len(prefixes) > 1:
        shown = some_of([repr(prefix) if prefix else "'' (none)" for prefix in sorted(prefixes)], MOST_NAMED)
        raise UserError(
            f"{file} has several networks like {model.architecture}, under {len(prefixes)} prefixes: {shown}; select "
            "one with --state-dict (in Python, state_dict=)."
        )


def _is_foreign(name: str, prefix: str, stems: Collection[str]) -> bool:
    """Returns whether a name has another prefix, or another first component than all names of the backbone."""
    rests = [rest for start, rest in _splits(name) if start == prefix]
    return not rests or _stem(rests[0]) not in stems


def note_of_prefix(fit: Fit, file: str) -> tuple[str, ...]:
    """Returns a sentence about the prefixes that jaxft removed from the tensor names of a file, if there are any."""
    if not fit.removed:
        return ()
    prefixes = "prefix" if len(fit.removed) == 1 else "prefixes"
    shown = some_of([repr(prefix) for prefix in fit.removed], MOST_NAMED)
    return (f"the tensor names of {file} have the {prefixes} {shown}, which jaxft removed.",)


def _removed(names: Mapping[str, str], prefix: str) -> tuple[str, ...]:
    """Returns the prefixes and wrappers that names in the file have, and names in the naming do not have.

    Args:
      names: tensor name in the naming -> tensor name in the file.
      prefix: the prefix of all names without wrappers.
    """
    removed = set()
    for name, raw in names.items():
        if raw.endswith(name):
            removed.add(raw.removesuffix(name))
        else:
            removed.update([prefix, *WRAPPERS.findall(raw)])
    longest = [text for text in removed if not any(other != text and other.endswith(text) for other in removed)]
    return tuple(sorted(text for text in longest if text))


def _without_wrappers(names: Collection[str], known: Collection[str]) -> dict[str, str]:
    """Returns a dict from each name without the wrappers in it to the name; keeps names that would coincide.

    Counters of wrappers are left out.
    """
    names = [name for name in names if re.split(r"[./]", name)[-1] not in COUNTERS]
    bare = {name if name in known else WRAPPERS.sub("", name): name for name in names}
    return bare if len(bare) == len(names) else {name: name for name in names}


def _shared(bare: Collection[str], table: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Returns, for each prefix, the names of `table` that `bare` has after the prefix: name in the table -> name."""
    shared: dict[str, dict[str, str]] = {}
    for name in bare:
        for prefix, rest in _splits(name):
            if rest in table:
                shared.setdefault(prefix, {})[rest] = name
    return shared


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Yields the possible prefixes of a name, with the rest of the name; a leaf name keeps its collection."""
    yield "", name
    collection = next((collection for collection in COLLECTIONS if name.startswith(collection)), "")
    leaf = name.removeprefix(collection)
    for separator in re.finditer(r"[./]", leaf):
        yield leaf[: separator.end()], collection + leaf[separator.end() :]


def _with_separator(prefix: str) -> str:
    return f"{prefix.rstrip('./').replace('/', '.')}." if prefix else ""


def _stem(name: str) -> str:
    """Returns the first component of a name without the collection and digits: 'layer' of `layer1.0.conv1.weight`."""
    collection = next((collection for collection in COLLECTIONS if name.startswith(collection)), "")
    return re.split(r"[./]", name.removeprefix(collection))[0].rstrip("0123456789")


def _needed(table: Mapping[str, str], model: Network) -> set[str]:
    """Returns the names in a table of all leaves of the backbone, without counters."""
    return {
        tensor_name
        for tensor_name, leaf in table.items()
        if not leaf.startswith("counters/") and not model.in_head(leaf.partition("/")[2])
    }


@functools.lru_cache(maxsize=64)
def tensor_names(model: Network, naming: Naming) -> dict[str, str]:
    """Returns a dict from tensor name to leaf, including the optional counters of batches."""
    tensors = {}
    for leaf in model.structure.shapes:
        tensors[find_port(leaf, model, naming).tensor_name] = leaf
        if leaf.startswith("batch_stats/") and leaf.endswith("/mean"):
            counter = counter_of(leaf)
            tensors[find_port(counter, model, naming).tensor_name] = counter
    return tensors


def counter_of(mean: str) -> str:
    """Returns the name of the batch counter of a batch norm, from the name of its running mean."""
    return f"counters/{layer_of(mean).partition('/')[2]}/num_batches_tracked"
