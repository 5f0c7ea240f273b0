"""The registry of measures of parameter change.

A measure is a function of sums and maxima over the values of a filter, leaf or layer, because the sums and maxima of a
layer follow from those of its leaves. To add a measure, register it:

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

Records of trials, `Store.changes()`, `jaxft results --layers --measure mean_abs_change` and the layer maps of the
report then contain the measure. With `whole`, it is also a column of the results.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxft.core.registry import Registry

if TYPE_CHECKING:
    import jax


class Totals(NamedTuple):
    """The input of a measure: sums and maxima over all values of a filter, leaf or layer, of any shape [...].

    Attributes:
      l2: [...], ||w - w0||, with the values w0 before and w after training.
      norm_before: [...], ||w0||.
      norm_after: [...], ||w||.
      terms: [5 + extra, ...], the terms of `jaxft.analysis.parameters.Sums`.
      num_values: the number of values, a scalar or an array that broadcasts with [...].
      extra_names: names of the extra terms.
      peaks: [maxima, ...], the maxima of `jaxft.analysis.parameters.Sums`.
      peak_names: names of the maxima.
    """

    l2: "jax.Array"
    norm_before: "jax.Array"
    norm_after: "jax.Array"
    terms: "jax.Array"
    num_values: "jax.Array"
    extra_names: tuple[str, ...]
    peaks: "jax.Array"
    peak_names: tuple[str, ...]

    @property
    def root_num_values(self) -> "jax.Array":
        """Returns the square root of the number of values."""
        import jax.numpy as jnp  # here, because the report reads the registry without JAX

        return jnp.sqrt(self.num_values)

    @property
    def product(self) -> "jax.Array":
        """Returns [...], the inner product w . w0."""
        return self.terms[3]

    @property
    def num_flips(self) -> "jax.Array":
        """Returns [...], the number of values that changed their sign; a zero has no sign."""
        return self.terms[4]

    @property
    def extra(self) -> "dict[str, jax.Array]":
        """Returns the sums of the extra terms of registered measures, each [...], by name."""
        return {name: self.terms[5 + i] for i, name in enumerate(self.extra_names)}

    @property
    def maxima(self) -> "dict[str, jax.Array]":
        """Returns the maxima that registered measures declare, each [...], by name."""
        return {name: self.peaks[i] for i, name in enumerate(self.peak_names)}


Term = Callable[[Any, Any], Any]  # an elementwise function of (w0, w)


@dataclass(frozen=True)
class Measure:
    """A measure of parameter change.

    Attributes:
      compute: returns the measure, with the shape of the sums.
      label: title of the color scale in the report; if empty, the report has no map of this measure.
      terms: extra sums that the measure needs, by name: elementwise functions of (w0, w).
      maxima: maxima that the measure needs, by name: elementwise functions of (w0, w) that are at least 0.
      whole: whether the results have a column `backbone_<name>`, the measure over all parameters below the head.
    """

    compute: Callable[[Totals], Any]
    label: str = ""
    terms: Mapping[str, Term] = field(default_factory=dict)
    maxima: Mapping[str, Term] = field(default_factory=dict)
    whole: bool = False


ABS_CHANGE: Mapping[str, Term] = {"abs_change": lambda before, after: abs(after - before)}  # the maximum of 'max_abs'
MEASURES: Registry[Measure] = Registry("measure of parameter change")
MEASURES.register("l2", Measure(lambda totals: totals.l2), help="||w - w0||")
MEASURES.register(
    "relative_l2",
    Measure(lambda totals: totals.l2 / totals.norm_before, label="relative change of the layer"),
    help="||w - w0|| / ||w0||; inf if only w0 is zero, nan if w0 and w are zero",
)
MEASURES.register(
    "rms", Measure(lambda totals: totals.l2 / totals.root_num_values), help="||w - w0|| / sqrt(number of values)"
)
MEASURES.register(
    "cosine",
    Measure(lambda totals: totals.product / (totals.norm_after * totals.norm_before)),
    help="w . w0 / (||w|| ||w0||); nan if w or w0 is zero",
)
MEASURES.register(
    "sign_flips",
    Measure(lambda totals: totals.num_flips / totals.num_values),
    help="fraction of values that changed their sign; a zero has no sign",
)
MEASURES.register(
    "max_abs",
    Measure(
        lambda totals: totals.maxima["abs_change"],
        maxima=ABS_CHANGE,
    ),
    help="max |w - w0|",
)


def extra_terms() -> dict[str, Term]:
    """Returns the extra terms of all registered measures by name, in addition to the five terms of `sums`."""
    return {name: term for entry in MEASURES.values() for name, term in entry.value.terms.items()}


def extra_maxima() -> dict[str, Term]:
    """Returns the elementwise functions whose maxima the registered measures need, by name."""
    return {name: term for entry in MEASURES.values() for name, term in entry.value.maxima.items()}
