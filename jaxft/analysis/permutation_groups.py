"""Groups of axes of parameters that can be permuted together without a change of the outputs, from a trace.

The trace of a network is a list of operations. Each of them requires that some axes have the same order: an addition,
those of both terms; a matrix product, the two axes that it contracts. Axes that such requirements connect are a group.
A group that contains an axis whose order matters, such as the classes, the pixels or the input channels, is left out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr, Literal

from jaxft.analysis.axis_rules import rules_of
from jaxft.core.paths import flatten, layer_of

Axis = int  # the index of an axis in `_Axes`
INNER = "jaxpr", "call_jaxpr"  # names of the programs inside an operation


def permutation_groups(
    apply: Callable[[Any, Any], Any], variables: Any, inputs: Any
) -> dict[str, list[tuple[str, int]]]:
    """Returns the specification for `permutations`: {group: [(leaf, axis), ...]}, named after the layer of a kernel.

    It is conservative: axes of operations that it does not know, of concatenations and of padded channels are left out.
    So the shortcuts of option A in CIFAR ResNets and the outputs of fire modules in SqueezeNets have no group.

    Args:
      apply: returns the outputs of a network from (variables, inputs). It is traced, not run.
      variables: a tree of arrays, or of their shapes (`jax.ShapeDtypeStruct`).
      inputs: an array [n, ...], or its shape.

    Example:
      >>> groups = permutation_groups(model.apply, variables, jnp.zeros((1, 32, 32, 3)))
      >>> aligned = permute(second, groups, weight_matching(first, second, groups))

    Reference: Ainsworth, Hayase & Srinivasa 2023, "Git re-basin", section 2, where the groups are written by hand.
    """
    program = jax.make_jaxpr(apply)(variables, inputs)
    leaves = flatten(variables)
    axes = _Axes()
    arguments = [axes.new(np.shape(value.aval)) for value in program.jaxpr.invars]
    for argument in arguments[len(leaves) :]:
        axes.fix(argument)
    for output in axes.trace(program.jaxpr, arguments):
        axes.fix(output)
    groups: dict[Axis, list[tuple[str, int]]] = {}
    for name, argument in zip(leaves, arguments):
        for i, axis in enumerate(argument):
            if np.shape(leaves[name])[i] > 1 and not axes.is_fixed(axis):
                groups.setdefault(axes.root(axis), []).append((name, i))
    return {_group_name(members, leaves): members for members in groups.values()}


def _group_name(members: Sequence[tuple[str, int]], leaves: Mapping[str, Any]) -> str:
    """Returns the layer of the first kernel with the group as its last axis, otherwise the first leaf and axis."""
    for name, axis in members:
        rank = len(np.shape(leaves[name]))
        if rank > 1 and axis == rank - 1:
            return layer_of(name)
    return "{}:{}".format(*members[0])


class _Axes:
    """Sets of axes with the same order: a union-find structure. A set is fixed if the order of an axis matters."""

    def __init__(self) -> None:
        self.parents: list[Axis] = []
        self.fixed: set[Axis] = set()

    def new(self, shape: Sequence[int]) -> list[Axis]:
        """Returns new axes, one for each axis of an array of this shape."""
        start = len(self.parents)
        self.parents += range(start, start + len(shape))
        return list(range(start, start + len(shape)))

    def root(self, axis: Axis) -> Axis:
        """Returns the representative of the set of an axis."""
        while self.parents[axis] != axis:
            self.parents[axis] = self.parents[self.parents[axis]]
            axis = self.parents[axis]
        return axis

    def join(self, first: Axis, second: Axis) -> None:
        """Unites the sets of two axes."""
        first, second = self.root(first), self.root(second)
        if first != second:
            self.parents[second] = first
            if second in self.fixed:
                self.fixed.add(first)

    def fix(self, axes: Sequence[Axis]) -> None:
        """Marks axes whose order matters."""
        self.fixed.update(self.root(axis) for axis in axes)

    def is_fixed(self, axis: Axis) -> bool:
        """Returns whether the order of an axis matters."""
        return self.root(axis) in self.fixed

    def trace(self, program: Jaxpr, arguments: Sequence[list[Axis]]) -> list[list[Axis]]:
        """Applies the requirements of all operations of a program, and returns the axes of its outputs."""
        known: dict[Any, list[Axis]] = dict(zip(program.invars, arguments))

        def axes_of(value: Any) -> list[Axis]:
            if isinstance(value, Literal):
                return self.new(np.shape(value.val))
            if value not in known:  # a constant of the program: its values differ along its axes
                known[value] = self.new(value.aval.shape)
                self.fix(known[value])
            return known[value]

        for operation in program.eqns:
            operands = [axes_of(value) for value in operation.invars]
            for value, axes in zip(operation.outvars, self._apply(operation, operands)):
                known[value] = axes
        return [axes_of(value) for value in program.outvars]

    def _apply(self, operation: Any, operands: Sequence[list[Axis]]) -> list[list[Axis]]:
        """Applies the requirements of one operation, and returns the axes of its outputs."""
        for name in INNER:
            inner = operation.params.get(name)
            if inner is not None:
                program = getattr(inner, "jaxpr", inner)
                if len(program.invars) == len(operands):
                    return self.trace(program, operands)
        outputs = [self.new(value.aval.shape) for value in operation.outvars]
        arrays = [*operands, *outputs]
        rules = rules_of(operation)
        for (first, i), (second, j) in rules.equal:
            self.join(arrays[first][i], arrays[second][j])
        for array, i in rules.ordered:
            self.fix([arrays[array][i]])
        return outputs
