"""Which axes of the operands and outputs of an operation of JAX must have the same order, and whose order matters."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

ELEMENTWISE = frozenset(
    (
        *("abs", "add", "add_any", "and", "ceil", "clamp", "convert_element_type", "copy", "cos", "div", "eq", "erf"),
        *("exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p", "logistic"),
        *("lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow", "reduce_precision", "rsqrt", "select_n", "sign"),
        *("sin", "sqrt", "square", "stop_gradient", "sub", "tanh"),
    )
)
REDUCTIONS = frozenset(["reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum"])
WINDOWS = frozenset(["reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum"])
ArrayAxis = tuple[int, int]  # an array, numbered from the first operand to the last output, and one of its axes


class AxisRules(NamedTuple):
    """Requirements of an operation.

    Attributes:
      equal: pairs of axes that must have the same order.
      ordered: axes whose order matters.
    """

    equal: list[tuple[ArrayAxis, ArrayAxis]]
    ordered: list[ArrayAxis]


def rules_of(operation: Any) -> AxisRules:
    """Returns the requirements of an operation of a traced program; for an unknown operation, all axes are ordered."""
    shapes = [tuple(value.aval.shape) for value in (*operation.invars, *operation.outvars)]
    num_operands, params, name = len(operation.invars), operation.params, operation.primitive.name
    if name in ELEMENTWISE:
        return _elementwise(shapes, num_operands)
    if name in REDUCTIONS:
        kept = [i for i in range(len(shapes[0])) if i not in params["axes"]]
        return AxisRules([((0, i), (1, j)) for j, i in enumerate(kept)], [])
    if name in WINDOWS:
        return _split(range(len(shapes[0])), lambda i: params["window_dimensions"][i] == 1, (0, num_operands))
    rule = RULES.get(name)
    if rule is None:
        return AxisRules([], [(array, i) for array, shape in enumerate(shapes) for i in range(len(shape))])
    return rule(params, shapes)


def _elementwise(shapes: Sequence[tuple[int, ...]], num_operands: int) -> AxisRules:
    output = shapes[num_operands]
    operands = [i for i in range(num_operands) if len(shapes[i]) == len(output)]
    return AxisRules([((i, axis), (num_operands, axis)) for i in operands for axis in range(len(output))], [])


def _split(axes: Iterable[int], keeps_order_free: Callable[[int], bool], arrays: tuple[int, int]) -> AxisRules:
    """Returns rules for an operation that does not mix some axes; the order of the other axes matters."""
    first, second = arrays
    rules = AxisRules([], [])
    for i in axes:
        if keeps_order_free(i):
            rules.equal.append(((first, i), (second, i)))
        else:
            rules.ordered.extend([(first, i), (second, i)])
    return rules


def _broadcast(params: Any, shapes: Sequence[tuple[int, ...]]) -> AxisRules:
    positions = enumerate(params["broadcast_dimensions"])
    output = len(shapes) - 1
    return AxisRules([((0, i), (output, j)) for i, j in positions if shapes[0][i] == shapes[output][j]], [])


def _transpose(params: Any, shapes: Sequence[tuple[int, ...]]) -> AxisRules:
    return AxisRules([((0, i), (1, j)) for j, i in enumerate(params["permutation"])], [])


def _reshape(params: Any, shapes: Sequence[tuple[int, ...]]) -> AxisRules:
    """Axes of equal size with equal numbers of values before them are the same; merged and split axes are ordered."""
    before, after = ({(math.prod(shape[:i]), n): i for i, n in enumerate(shape) if n > 1} for shape in shapes[:2])
    rules = AxisRules([((0, before[key]), (1, after[key])) for key in before.keys() & after.keys()], [])
    rules.ordered.extend((0, i) for key, i in before.items() if key not in after)
    rules.ordered.extend((1, i) for key, i in after.items() if key not in before)
    return rules


def _pad(params: Any, shapes: Sequence[tuple[int, ...]]) -> AxisRules:
    return _split(range(len(shapes[0])), lambda i: params["padding_config"][i] == (0, 0, 0), (0, 2))


def _slice(params: Any, shapes: Sequence[tuple[int, ...]]) -> AxisRules:
    return _split(range(len(shapes[0])), lambda i: shapes[0][i] == shapes[1][i], (0, 1))


def _concatenate(params: Any, shapes: Sequence[tuple[int, ...]]) -> AxisRules:
    rules = AxisRules([], [])
    for operand in range(len(shapes) - 1):
        added = _split(range(len(shapes[0])), lambda i: i != params["dimension"], (operand, len(shapes) - 1))
        rules.equal.extend(added.equal)
        rules.ordered.extend(added.ordered)
    return rules


def _dot_general(params: Any, shapes: Sequence[tuple[int, ...]]) -> AxisRules:
    contracted, batch = params["dimension_numbers"]
    equal = [((0, i), (1, j)) for i, j in (*zip(*contracted), *zip(*batch))]
    outputs = [(0, i) for i in batch[0]]
    for operand in (0, 1):
        used = (*contracted[operand], *batch[operand])
        outputs += [(operand, i) for i in range(len(shapes[operand])) if i not in used]
    return AxisRules(equal + [(axis, (2, j)) for j, axis in enumerate(outputs)], [])


class _Dimensions(NamedTuple):
    """The axes of (batch, features) of images and output, and of (inputs, outputs) of a kernel."""

    images: tuple[int, int]
    kernel: tuple[int, int]
    output: tuple[int, int]


def _convolution(dims: _Dimensions, groups: int, shapes: Sequence[tuple[int, ...]]) -> AxisRules:
    (batch, channels), (inputs, outputs), (out_batch, features) = dims
    rules = AxisRules([((0, batch), (2, out_batch))], [])
    is_depthwise = groups == shapes[0][channels] == shapes[2][features]
    if groups == 1 or is_depthwise:
        rules.equal.append(((1, outputs), (2, features)))
        rules.equal.append(((0, channels), (1, outputs if is_depthwise and groups > 1 else inputs)))
    used = {(0, batch), (0, channels), (2, out_batch), (2, features), (1, inputs), (1, outputs)}
    if not rules.equal[1:]:
        used -= {(0, channels), (1, inputs), (1, outputs), (2, features)}
    rules.ordered.extend((a, i) for a, shape in enumerate(shapes) for i in range(len(shape)) if (a, i) not in used)
    return rules


def _xla_convolution(params: Any, shapes: Sequence[tuple[int, ...]]) -> AxisRules:
    numbers = params["dimension_numbers"]
    kernel = numbers.rhs_spec[1], numbers.rhs_spec[0]
    dims = _Dimensions(tuple(numbers.lhs_spec[:2]), kernel, tuple(numbers.out_spec[:2]))
    return _convolution(dims, params["feature_group_count"] * params["batch_group_count"], shapes)


def _own_convolution(params: Any, shapes: Sequence[tuple[int, ...]]) -> AxisRules:
    """Rules of the primitive of `jaxft.ops.convolution`: [trials, n, height, width, channels]."""
    return _convolution(_Dimensions((1, 4), (3, 4), (1, 4)), params["case"].groups, shapes)


def _squeeze(params: Any, shapes: Sequence[tuple[int, ...]]) -> AxisRules:
    kept = [i for i in range(len(shapes[0])) if i not in params["dimensions"]]
    return AxisRules([((0, i), (1, j)) for j, i in enumerate(kept)], [])


RULES: dict[str, Callable[[Any, Sequence[tuple[int, ...]]], AxisRules]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _xla_convolution,
    "dot_general": _dot_general,
    "jaxft_convolution": _own_convolution,
    "pad": _pad,
    "reshape": _reshape,
    "slice": _slice,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
