"""2-d convolutions: oneDNN's on CPUs that have it, XLA's everywhere else, with the same values and gradients.

A layer takes them as `nn.Conv(conv_general_dilated=conv_general_dilated)`.

A convolution and its two gradients are three bilinear functions, and a derivative of any of them is one of the other
two. They are one JAX primitive, so that every transformation works, in forward and reverse mode and to any order. When a
program is lowered, each becomes a call of oneDNN (`jaxft.ops.onednn`) or XLA's convolution.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxft.errors import UserError
from jaxft.ops import onednn

Pair = tuple[int, int]
Operation = Literal["output", "images", "kernel"]
OPERATIONS: tuple[Operation, ...] = ("output", "images", "kernel")
DIMENSION_NUMBERS = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # NHWC, HWIO, NHWC


@dataclass(frozen=True)
class Case:
    """What is static in one of the three functions of a convolution.

    Attributes:
      operation: what is computed: the convolution's "output" of (images, kernel), or a gradient: that of the "images",
        of (output gradient, kernel), or that of the "kernel", of (images, output gradient).
      images: shape [n, height, width, channels].
      kernel: shape [height, width, channels / groups, features].
      padding: ((top, bottom), (left, right)), in pixels.
    """

    operation: Operation
    images: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[Pair, ...]
    dilation: tuple[int, ...]
    groups: int
    precision: Any

    @property
    def output(self) -> tuple[int, ...]:
        """Returns the shape of the convolution's output, [n, height, width, features]."""
        sides = [
            (size + low + high - (k - 1) * dilation - 1) // stride + 1
            for size, k, stride, (low, high), dilation in zip(
                self.images[1:3], self.kernel[:2], self.strides, self.padding, self.dilation
            )
        ]
        return self.images[0], *sides, self.kernel[3]

    @property
    def result(self) -> tuple[int, ...]:
        """Returns the shape of what is computed."""
        return {"output": self.output, "images": self.images, "kernel": self.kernel}[self.operation]

    def of(self, operation: Operation) -> "Case":
        """Returns another function of the same convolution."""
        return dataclasses.replace(self, operation=operation)


# --- by oneDNN or by XLA ----------------------------------------------------------------------------------------

CpuConvolution = Literal["auto", "onednn", "xla"]
_cpu_convolution: CpuConvolution = "auto"


@contextlib.contextmanager
def use(cpu_convolution: CpuConvolution) -> Iterator[None]:
    """Selects what computes the convolutions of programs compiled for a CPU inside the context.

    If the selection differs from the one outside, JAX forgets the programs that it has compiled, at both ends.

    Args:
      cpu_convolution: "onednn", "xla", or "auto": oneDNN if it can be used here, else XLA.
    """
    before = _cpu_convolution
    _select(cpu_convolution)
    try:
        yield
    finally:
        _select(before)


def _select(cpu_convolution: CpuConvolution) -> None:
    global _cpu_convolution
    if cpu_convolution != _cpu_convolution:
        jax.clear_caches()
    _cpu_convolution = cpu_convolution


@dataclass(frozen=True)
class Implementation:
    """What computes convolutions on JAX's default device: the last digits of a result depend on it.

    Attributes:
      name: "onednn" or "xla".
      version: oneDNN's version.
      isa: the instruction set that oneDNN uses, such as "avx512_core".
      threads: threads of one call of oneDNN.
    """

    name: str
    version: str = ""
    isa: str = ""
    threads: int = 0

    def __str__(self) -> str:
        """Returns "XLA", or such as "oneDNN 3.2.0 (avx2, 8 threads)"."""
        if self.name == "xla":
            return "XLA"
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.threads else ""
        return f"oneDNN {self.version} ({self.isa}{threads})"


def implementation() -> Implementation:
    """Returns what computes convolutions on JAX's default device.

    Raises:
      UserError: oneDNN is selected and cannot be used.
    """
    if jax.default_backend() != "cpu" or _cpu_convolution == "xla":
        return Implementation("xla")
    try:
        library = onednn.load()
    except onednn.Unavailable as reason:
        if _cpu_convolution == "onednn":
            raise UserError(f"execution.cpu_convolution is 'onednn', which cannot be used here: {reason}.") from None
        return Implementation("xla")
    return Implementation("onednn", library.version, library.isa, library.num_threads)


def advice() -> str:
    """Returns a sentence on what would make convolutions faster on this machine, or an empty string."""
    if jax.default_backend() == "cpu" and _cpu_convolution == "auto" and onednn.is_supported_platform():
        try:
            onednn.load()
        except onednn.Unavailable as reason:
            return f"convolutions are computed by XLA, which takes about twice as long as oneDNN: {reason}"
    return ""


# --- the convolution --------------------------------------------------------------------------------------------


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[Pair],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """Returns `jax.lax.conv_general_dilated` of the same arguments, by oneDNN where that can be.

    It can for 2-d convolutions of `lhs` [n, height, width, channels] with `rhs` [height, width, channels / groups,
    features], both float32 or both bfloat16, without `lhs_dilation` and without negative padding.
    """
    numbers = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    ones = (1,) * (lhs.ndim - 2)
    dilation = tuple(rhs_dilation or ones)
    if isinstance(padding, str):
        reach = [(rhs.shape[axis] - 1) * step + 1 for axis, step in zip(numbers.rhs_spec[2:], dilation)]
        sides = [lhs.shape[axis] for axis in numbers.lhs_spec[2:]]
        padding = jax.lax.padtype_to_pads(sides, reach, window_strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    if (
        numbers == DIMENSION_NUMBERS
        and tuple(lhs_dilation or ones) == ones
        and lhs.dtype == rhs.dtype
        and lhs.dtype in (jnp.float32, jnp.bfloat16)
        and min(min(pair) for pair in pads) >= 0
        and _cpu_convolution != "xla"
    ):
        strides = tuple(window_strides)
        case = Case("output", lhs.shape, rhs.shape, strides, pads, dilation, feature_group_count, precision)
        if math.prod(lhs.shape) and min(case.output) > 0:
            return _convolution.bind(lhs[None], rhs[None], case=case)[0]
    return jax.lax.conv_general_dilated(
        lhs, rhs, window_strides, pads, lhs_dilation, rhs_dilation, numbers, feature_group_count, precision=precision
    )


# Its two arguments and its result have a first axis more than `Case` says: lanes. Each argument has as many lanes as the
# result, or one for all of them.
_convolution = Primitive("jaxft_convolution")


@_convolution.def_impl
def _impl(a: jax.Array, b: jax.Array, *, case: Case) -> jax.Array:
    return _jitted(case)(a, b)


@functools.lru_cache(maxsize=1024)
def _jitted(case: Case) -> Any:
    return jax.jit(functools.partial(_convolution.bind, case=case))


@_convolution.def_abstract_eval
def _abstract(a: Any, b: Any, *, case: Case) -> Any:
    return jax.core.ShapedArray((max(a.shape[0], b.shape[0]), *case.result), a.dtype)


def _transpose(operations: tuple[Operation, Operation, Operation], which: int) -> Any:
    """Returns the transpose of the primitive towards its argument number `which`, for each of its operations."""

    def rule(cotangent: jax.Array, a: Any, b: Any, *, case: Case) -> jax.Array:
        operation = operations[OPERATIONS.index(case.operation)]
        other = a if which else b
        # Of the convolution's three arrays a function reads two, in this order: images, output, kernel.
        args = {
            ("output", "images"): (cotangent, other),
            ("output", "kernel"): (other, cotangent),
            ("images", "output"): (cotangent, other),
            ("images", "kernel"): (cotangent, other),
            ("kernel", "images"): (other, cotangent),
            ("kernel", "output"): (other, cotangent),
        }[case.operation, operation]
        found = _convolution.bind(*args, case=case.of(operation))
        lanes = (b if which else a).aval.shape[0]
        return found if found.shape[0] == lanes else found.sum(0, keepdims=True)

    return rule


ad.defbilinear(
    _convolution,
    _transpose(("images", "output", "images"), 0),
    _transpose(("kernel", "kernel", "output"), 1),
)


def _batch(args: Sequence[jax.Array], dims: Sequence[int | None], *, case: Case) -> tuple[jax.Array, int]:
    """Returns all lanes as one call: in the batch where they share their kernel, else one after another."""
    batched = [dim is not None for dim in dims]
    a, b = (x[None] if dim is None else jnp.moveaxis(x, dim, 0) for x, dim in zip(args, dims))
    size = max(len(a), len(b))
    if case.operation != "kernel" and not batched[1] and b.shape[1] == 1:
        n = case.images[0]
        wide = dataclasses.replace(case, images=(size * n, *case.images[1:]))
        out = _convolution.bind(a.reshape(1, size * n, *a.shape[3:]), b[0], case=wide)
        return out.reshape(size, 1, n, *out.shape[2:]), 0
    lanes = max(a.shape[1], b.shape[1])

    def flat(x: jax.Array, is_batched: bool) -> jax.Array:
        if x.shape[1] == 1 and not is_batched:
            return x[0]
        return jnp.broadcast_to(x, (size, lanes, *x.shape[2:])).reshape(size * lanes, *x.shape[2:])

    out = _convolution.bind(flat(a, batched[0]), flat(b, batched[1]), case=case)
    return out.reshape(size, lanes, *out.shape[1:]), 0


batching.primitive_batchers[_convolution] = _batch


# --- lowering ---------------------------------------------------------------------------------------------------


def _by_xla(a: jax.Array, b: jax.Array, *, case: Case) -> jax.Array:
    def forward(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            images,
            kernel,
            case.strides,
            case.padding,
            None,
            case.dilation,
            DIMENSION_NUMBERS,
            case.groups,
            precision=case.precision,
        )

    def one(a: jax.Array, b: jax.Array) -> jax.Array:
        if case.operation == "output":
            return forward(a, b)
        if case.operation == "images":
            images = jax.ShapeDtypeStruct(case.images, a.dtype)
            return jax.linear_transpose(lambda x: forward(x, b), images)(a)[0]
        return jax.linear_transpose(lambda k: forward(a, k), jax.ShapeDtypeStruct(case.kernel, b.dtype))(b)[0]

    if len(a) == len(b) == 1:
        return one(a[0], b[0])[None]
    axes = [None if len(x) == 1 else 0 for x in (a, b)]
    return jax.vmap(one, axes)(*(x[0] if axis is None else x for x, axis in zip((a, b), axes)))


def _by_onednn(a: jax.Array, b: jax.Array, *, case: Case) -> jax.Array:
    result = jax.ShapeDtypeStruct((max(len(a), len(b)), *case.result), a.dtype)
    return jax.ffi.ffi_call(onednn.load().target, result)(a, b, geometry=_geometry(case, a.dtype))


def _geometry(case: Case, dtype: Any) -> np.ndarray:
    """Returns the numbers that oneDNN's handler reads, in its order."""
    numbers = [OPERATIONS.index(case.operation), dtype == jnp.bfloat16, *case.images, *case.output[1:]]
    numbers += [*case.kernel[:2], case.groups, *case.strides, *case.padding[0], *case.padding[1], *case.dilation]
    return np.array(numbers, np.int64)


def _lower_on_cpu(ctx: mlir.LoweringRuleContext, a: Any, b: Any, *, case: Case) -> Any:
    """Lowers to oneDNN's call where it has one and the program stays here, on one device or split by hand."""
    module, dtype = ctx.module_context, ctx.avals_in[0].dtype  # type: ignore[attr-defined]
    is_partitioned = isinstance(module.axis_context, mlir.ShardingContext) and module.axis_context.num_devices > 1
    by = _by_xla
    if not module.lowering_parameters.for_export and not is_partitioned:
        with contextlib.suppress(onednn.Unavailable):
            if onednn.load().supports(_geometry(case, dtype)):
                by = _by_onednn
    return mlir.lower_fun(functools.partial(by, case=case), multiple_results=False)(ctx, a, b)


mlir.register_lowering(_convolution, mlir.lower_fun(_by_xla, multiple_results=False))
mlir.register_lowering(_convolution, _lower_on_cpu, platform="cpu")
