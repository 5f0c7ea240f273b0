"""2-d convolutions with the values and gradients of XLA, computed by oneDNN on a CPU if available.

A convolution and its two gradients are three bilinear functions. The derivative of each is one of the other two. They
are one JAX primitive, so that forward and reverse mode work to any order. Lowering turns each function into a call of
oneDNN (`jaxft.ops.onednn`) or into an XLA convolution.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxft.core.errors import UserError
from jaxft.ops import onednn

CpuConvolution = Literal["auto", "onednn", "xla"]
DIMENSION_NUMBERS = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # NHWC, HWIO, NHWC
# The inputs of each of the three functions, by name of its output: "images" and "kernel" are gradients.
READS = {"output": ("images", "kernel"), "images": ("output", "kernel"), "kernel": ("images", "output")}


@dataclass(frozen=True)
class Case:
    """The static arguments of one of the three functions of a convolution.

    Attributes:
      computes: the function: 'output', 'images' or 'kernel', a key of `READS`.
      images: the shape [n, height, width, channels].
      kernel: the shape [height, width, channels / groups, features].
      strides: (vertical, horizontal).
      padding: ((top, bottom), (left, right)).
      dilation: dilation of the kernel, (vertical, horizontal).
      groups: number of groups of channels.
      precision: precision of the products, as in `jax.lax.conv_general_dilated`.
    """

    computes: str
    images: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    precision: Any

    @property
    def output(self) -> tuple[int, ...]:
        """Returns the shape of the output, [n, height, width, features]."""
        window = zip(self.images[1:3], self.kernel[:2], self.strides, self.padding, self.dilation)
        sides = [(size + sum(pad) - (k - 1) * step - 1) // stride + 1 for size, k, stride, pad, step in window]
        return self.images[0], *sides, self.kernel[3]


_cpu_convolution: CpuConvolution = "auto"


@contextlib.contextmanager
def use(cpu_convolution: CpuConvolution) -> Iterator[None]:
    """Selects the library for convolutions of programs that are compiled for a CPU inside the context.

    "auto" is oneDNN if it is available, otherwise XLA. If the selection differs from that outside the context, JAX
    drops its compiled programs at the start and at the end of the context.
    """
    global _cpu_convolution
    before, _cpu_convolution = _cpu_convolution, cpu_convolution
    try:
        if before != cpu_convolution:
            jax.clear_caches()
        yield
    finally:
        _cpu_convolution = before
        if before != cpu_convolution:
            jax.clear_caches()


def implementation() -> tuple[str, int]:
    """Returns the library for convolutions and its number of threads: ("oneDNN 3.2.0 avx2", 8) or ("XLA", 0).

    Raises:
      UserError: oneDNN is selected but not available.
    """
    if jax.default_backend() != "cpu" or _cpu_convolution == "xla":
        return "XLA", 0
    try:
        library = onednn.load()
    except onednn.Unavailable as reason:
        if _cpu_convolution == "auto":
            return "XLA", 0
        raise UserError(f"execution.cpu_convolution is 'onednn', which is not available: {reason}.") from None
    return f"oneDNN {library.version} {library.isa}", library.num_threads


def described(computed_by: str, threads: int) -> str:
    """Returns the result of `implementation` as one string: "oneDNN 3.2.0 avx2, 8 threads"."""
    return f"{computed_by}, {threads} thread{'s' * (threads > 1)}" if threads else computed_by


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """Returns the convolution of `lhs` and `rhs`, [n, height', width', features]: `jax.lax.conv_general_dilated`.

    It can be passed to layers: `nn.Conv(conv_general_dilated=conv_general_dilated)`. oneDNN can compute it if both
    arrays are float32 or both are bfloat16, their dimensions are in the order below, and there is no `lhs_dilation` and
    no negative padding. In all other cases, XLA computes it.

    Args:
      lhs: images, [n, height, width, channels].
      rhs: kernel, [height, width, channels / groups, features].
      window_strides: (vertical, horizontal).
      padding: 'SAME', 'VALID', or ((top, bottom), (left, right)).
      lhs_dilation: dilation of the images; if None, 1.
      rhs_dilation: dilation of the kernel; if None, 1.
      dimension_numbers: order of the dimensions, as in `jax.lax.conv_general_dilated`.
      feature_group_count: number of groups of channels.
      precision: precision of the products; if None, the default of JAX.
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
        _cpu_convolution != "xla"
        and numbers == DIMENSION_NUMBERS
        and tuple(lhs_dilation or ones) == ones
        and lhs.dtype == rhs.dtype
        and lhs.dtype in (jnp.float32, jnp.bfloat16)
        and min(map(min, pads)) >= 0
        and not (_is_checked(lhs) or _is_checked(rhs))
    ):
        strides = tuple(window_strides)
        precision = precision or jax.config.values["jax_default_matmul_precision"]  # also for the gradients
        case = Case("output", lhs.shape, rhs.shape, strides, pads, dilation, feature_group_count, precision)
        if all(size > 0 for size in (*lhs.shape, *rhs.shape, *case.output)):
            return _convolution.bind(lhs[None], rhs[None], case=case)[0]
    return jax.lax.conv_general_dilated(
        lhs, rhs, window_strides, pads, lhs_dilation, rhs_dilation, numbers, feature_group_count, precision=precision
    )


def _is_checked(x: jax.Array) -> bool:
    """Returns whether `shard_map` checks if `x` varies over devices; the primitive has no rule for this check."""
    return bool(getattr(getattr(jax.typeof(x), "mat", None), "varying", False))


# --- the primitive: arrays have a first axis of trials, whose size is 1 or the size of the result ------------------

_convolution = Primitive("jaxft_convolution")


@_convolution.def_impl
def _impl(a: jax.Array, b: jax.Array, *, case: Case) -> jax.Array:
    return _jitted(case)(a, b)


@functools.lru_cache(maxsize=1024)
def _jitted(case: Case) -> Any:
    return jax.jit(functools.partial(_convolution.bind, case=case))


@_convolution.def_abstract_eval
def _abstract(a: Any, b: Any, *, case: Case) -> Any:
    return jax.core.ShapedArray((max(a.shape[0], b.shape[0]), *getattr(case, case.computes)), a.dtype)


def _make_transpose(which: int) -> Any:
    """Returns the transpose rule for argument number `which`: one of the other two functions."""

    def transpose(cotangent: jax.Array, a: Any, b: Any, *, case: Case) -> jax.Array:
        gradient_of, other = READS[case.computes][which], READS[case.computes][1 - which]
        arrays = {case.computes: cotangent, other: (a, b)[1 - which]}
        first, second = READS[gradient_of]
        result = _convolution.bind(arrays[first], arrays[second], case=dataclasses.replace(case, computes=gradient_of))
        num_trials = (a, b)[which].aval.shape[0]
        return result if result.shape[0] == num_trials else result.sum(0, keepdims=True)

    return transpose


ad.defbilinear(_convolution, _make_transpose(0), _make_transpose(1))


def _batch(args: Sequence[jax.Array], dims: Sequence[int | None], *, case: Case) -> tuple[jax.Array, int]:
    """Returns the results of all trials of `vmap` from one call.

    Trials that share a kernel are merged into the batch; otherwise, the call loops over the trials.
    """
    a, b = (x[None] if dim is None else jnp.moveaxis(x, dim, 0) for x, dim in zip(args, dims))
    size, num_trials = max(len(a), len(b)), max(a.shape[1], b.shape[1])
    if case.computes != "kernel" and dims[1] is None and num_trials == 1:
        n = case.images[0]
        wide = dataclasses.replace(case, images=(size * n, *case.images[1:]))
        out = _convolution.bind(a.reshape(1, size * n, *a.shape[3:]), b[0], case=wide)
        return out.reshape(size, 1, n, *out.shape[2:]), 0

    def flat(x: jax.Array, dim: int | None) -> jax.Array:
        if dim is None and x.shape[1] == 1:  # shared by all trials
            return x[0]
        return jnp.broadcast_to(x, (size, num_trials, *x.shape[2:])).reshape(size * num_trials, *x.shape[2:])

    out = _convolution.bind(flat(a, dims[0]), flat(b, dims[1]), case=case)
    return out.reshape(size, num_trials, *out.shape[1:]), 0


batching.primitive_batchers[_convolution] = _batch


# --- lowering ---------------------------------------------------------------------------------------------------


def _by_xla(a: jax.Array, b: jax.Array, *, case: Case) -> jax.Array:
    def forward(x: jax.Array, k: jax.Array) -> jax.Array:
        window = case.strides, case.padding, None, case.dilation, DIMENSION_NUMBERS, case.groups
        return jax.lax.conv_general_dilated(x, k, *window, precision=case.precision)

    def one(a: jax.Array, b: jax.Array) -> jax.Array:
        if case.computes == "output":
            return forward(a, b)
        if case.computes == "images":
            return jax.linear_transpose(lambda x: forward(x, b), jax.ShapeDtypeStruct(case.images, a.dtype))(a)[0]
        return jax.linear_transpose(lambda k: forward(a, k), jax.ShapeDtypeStruct(case.kernel, b.dtype))(b)[0]

    if len(a) == len(b) == 1:
        return one(a[0], b[0])[None]
    axes = [None if len(x) == 1 else 0 for x in (a, b)]
    return jax.vmap(one, axes)(*(x[0] if axis is None else x for x, axis in zip((a, b), axes)))


def _by_onednn(a: jax.Array, b: jax.Array, *, case: Case) -> jax.Array:
    result = jax.ShapeDtypeStruct((max(len(a), len(b)), *getattr(case, case.computes)), a.dtype)
    return jax.ffi.ffi_call(onednn.load().target, result)(a, b, geometry=_geometry(case, a.dtype))


def _geometry(case: Case, dtype: Any) -> np.ndarray:
    """Returns the geometry of a call as int64 numbers, in the order that `onednn.cc` expects."""
    numbers = [list(READS).index(case.computes), dtype == jnp.bfloat16, *case.images, *case.output[1:]]
    numbers += [*case.kernel[:2], case.groups, *case.strides, *case.padding[0], *case.padding[1], *case.dilation]
    return np.array(numbers, np.int64)


def _is_partitioned(context: Any) -> bool:
    """Returns whether XLA partitions a program over devices. It would copy the whole batch to each call of oneDNN."""
    if isinstance(context, mlir.ShardingContext):
        return context.num_devices > 1
    return isinstance(context, mlir.SPMDAxisContext) and set(context.mesh.axis_names) != set(context.manual_axes)


def _lower_on_cpu(ctx: mlir.LoweringRuleContext, a: Any, b: Any, *, case: Case) -> Any:
    """Lowers to a call of oneDNN if oneDNN supports the case and the program is neither exported nor partitioned."""
    module, dtype = ctx.module_context, ctx.avals_in[0].dtype  # type: ignore[attr-defined]
    function = _by_xla
    if not module.lowering_parameters.for_export and not _is_partitioned(module.axis_context):
        with contextlib.suppress(onednn.Unavailable):
            if onednn.load().supports(_geometry(case, dtype)):
                function = _by_onednn
    return mlir.lower_fun(functools.partial(function, case=case), multiple_results=False)(ctx, a, b)


mlir.register_lowering(_convolution, mlir.lower_fun(_by_xla, multiple_results=False))
mlir.register_lowering(_convolution, _lower_on_cpu, platform="cpu")
