"""Measures of parameter change: a registry.

A measure is a function of sums over the values of a filter, leaf or layer,
so that those of a layer follow from those of its leaves. To add one, register it:

    MEASURES.register(
        "mean_abs_change",
        Measure(
            lambda totals: totals.extra["abs_change"] / totals.num_values,
            label="mean absolute change",
            terms={"abs_change": lambda before, after: abs(after - before)},
            whole=True,
        ),
        help="mean of |w - w0|",
    )

It is then in the record of every trial, in `Store.changes()`, in `jaxft results --layers --measure mean_abs_change` and
in the report's maps of layers; with `whole` it is a column of the results too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxft.core.registry import Registry

if TYPE_CHECKING:
    import jax


class Totals(NamedTuple):
    """What a measure is a function of: sums over all values of a filter, leaf or layer, with d = w - w0.

    Attributes:
      l2, norm_before, norm_after: ||d||, ||w0||, ||w||.
      terms: [5 + extra, ...], those of `Sums`.
      num_values: the number of values.
      extra_names: names of the extra terms.
    """

    l2: "jax.Array"
    norm_before: "jax.Array"
    norm_after: "jax.Array"
    terms: "jax.Array"
    num_values: "jax.Array"
    extra_names: tuple[str, ...]

    @property
    def root_num_values(self) -> "jax.Array":
        """Returns the square root of the number of values."""
        import jax.numpy as jnp  # late: the report reads the registry, and needs no JAX

        return jnp.sqrt(self.num_values)

    @property
    def product(self) -> "jax.Array":
        """Returns w . w0."""
        return self.terms[3]

    @property
    def num_flips(self) -> "jax.Array":
        """Returns the number of values whose sign turned; a zero has none."""
        return self.terms[4]

    @property
    def extra(self) -> "dict[str, jax.Array]":
        """Returns the sums of the terms that registered measures asked for, by name."""
        return {name: self.terms[5 + i] for i, name in enumerate(self.extra_names)}


Term = Callable[[Any, Any], Any]  # (w0, w) to an array of their shape


@dataclass(frozen=True)
class Measure:
    """A measure of parameter change.

    Attributes:
      of: returns the measure, of the shape of the sums.
      label: what the report's scale is titled; empty: the report draws no map of it.
      terms: further sums that it needs: functions of (w0, w), elementwise, by name.
      whole: whether it is also measured over all parameters below the head, as a column `body_<name>` of the results.
    """

    of: Callable[[Totals], Any]
    label: str = ""
    terms: Mapping[str, Term] = field(default_factory=dict)
    whole: bool = False


MEASURES: Registry[Measure] = Registry("measure of parameter change")
MEASURES.register("l2", Measure(lambda totals: totals.l2), help="||w - w0||")
MEASURES.register(
    "relative_l2",
    Measure(lambda totals: totals.l2 / totals.norm_before, label="relative change of the layer"),
    help="||w - w0|| / ||w0||; inf where w0 is zero and w is not, nan where both are",
)
MEASURES.register(
    "rms", Measure(lambda totals: totals.l2 / totals.root_num_values), help="||w - w0|| / sqrt(number of values)"
)
MEASURES.register(
    "cosine",
    Measure(lambda totals: totals.product / (totals.norm_after * totals.norm_before)),
    help="w . w0 / (||w|| ||w0||); nan where either is zero",
)
MEASURES.register(
    "sign_flips",
    Measure(lambda totals: totals.num_flips / totals.num_values),
    help="share of values whose sign turned; a zero has none",
)


def extra_terms() -> dict[str, Term]:
    """Returns the terms that registered measures need besides the five of `sums`, by name, each once."""
    return {name: term for entry in MEASURES.values() for name, term in entry.value.terms.items()}
