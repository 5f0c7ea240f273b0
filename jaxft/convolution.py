"""Convolutions with the values and gradients of `lax.conv_general_dilated`, each by what is fastest for it.

A layer takes them as `nn.Conv(conv_general_dilated=convolve)`. A convolution and its two gradients are three bilinear
functions, and a gradient of any of them is made of the other two. Each is worked out by an algorithm of its own:

    xla       XLA's convolution and its transposes; under `vmap` one grouped convolution
    patches   what the kernel covers at each place laid side by side, and a matrix product; of 1x1 the product alone
    winograd  of a 3x3 kernel, 4 products for an output in the place of 9 (Lavin & Gray 2016, F(2x2, 3x3))
    shifts    a sum over the kernel's places of the shifted images; of a depthwise kernel, a product with each
    groups    the groups of a grouped convolution one after another
    lanes     under `vmap`, one lane after another, written out; each by what is chosen for it alone

Which one, is decided when a program is traced: by `use`'s override, by what a run was begun with, by what was measured
on this machine, or by a rule (`rule`), whose measurements are in `benchmarks/results/convolution.json`.
"""

import contextlib
import functools
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Pair = tuple[int, int]
Binary = Callable[[jax.Array, jax.Array], jax.Array]

OPERATIONS = ("output", "images", "kernel")
IMAGES_LAST = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # NHWC, HWIO, NHWC
MOST_LANES = 16  # written out; a program of more takes minutes to compile
LEAST_MACS = 300_000_000  # below which timing a convolution costs more than it can save
CLEARLY = 0.9  # a measured algorithm replaces the rule's where it takes less than this part of its time


@dataclass(frozen=True)
class Window:
    """What is static in a convolution, as `lax.conv_general_dilated` takes it."""

    strides: tuple[int, ...]
    padding: tuple[Pair, ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    dimension_numbers: jax.lax.ConvDimensionNumbers
    groups: int
    precision: Any


@dataclass(frozen=True)
class Case:
    """One of the three functions of a convolution: what decides how long an algorithm takes.

    `images` and `kernel` are shapes; with `lanes`, under `vmap`, those of one lane, and `batched` says which of the
    function's two arguments have lanes.
    """

    operation: str
    window: Window
    images: tuple[int, ...]
    kernel: tuple[int, ...]
    dtype: str
    lanes: int = 0
    batched: tuple[bool, bool] = (False, False)

    def __str__(self) -> str:
        """Returns its name in files and tables: `kernel float32 8x56x56x64 3x3x64x128 stride 2 2 padding 1 1 1 1`."""
        window = self.window
        words = [self.operation, self.dtype, "x".join(map(str, self.images)), "x".join(map(str, self.kernel))]
        words += ["stride", *map(str, window.strides), "padding", *(str(p) for side in window.padding for p in side)]
        for name in ("lhs_dilation", "rhs_dilation"):
            if any(step != 1 for step in getattr(window, name)):
                words += [name, *map(str, getattr(window, name))]
        if window.groups > 1:
            words += ["groups", str(window.groups)]
        if window.dimension_numbers != jax.lax.ConvDimensionNumbers(*IMAGES_LAST):
            words += ["layout", *("".join(map(str, spec)) for spec in window.dimension_numbers)]
        if window.precision is not None:
            words += ["precision", str(window.precision)]
        if self.lanes:
            words += ["lanes", str(self.lanes), "of", "both" if all(self.batched) else str(self.batched.index(True))]
        return " ".join(words)

    @property
    def output(self) -> tuple[int, ...]:
        """Returns the shape of the convolution's output, of one lane."""
        return _output_shape(self.window, self.images, self.kernel)

    @property
    def depthwise(self) -> bool:
        """Tells whether there is one filter a channel."""
        return 1 < self.window.groups == self.images[-1] == self.kernel[-1]

    @property
    def macs(self) -> int:
        """Returns the multiply-accumulates of all lanes."""
        numbers = self.window.dimension_numbers
        features = self.kernel[numbers.rhs_spec[0]]
        return math.prod(self.output) * math.prod(self.kernel) // features * max(self.lanes, 1)

    @property
    def patch_bytes(self) -> int:
        """Returns what the patches of all lanes take in memory."""
        places = math.prod(self.kernel[:2])
        if places == 1:
            return 0
        rows, channels = math.prod(self.output[:3]), self.images[-1]
        if self.operation == "images":  # whose patches are of the output's gradients
            rows, channels = math.prod(self.images[:3]), self.output[-1]
        return rows * channels * places * np.dtype(self.dtype).itemsize * max(self.lanes, 1)


# --- the choice -------------------------------------------------------------------------------------------------


@dataclass
class Choices:
    """What decides between algorithms, and which were taken.

    Attributes:
      override: an algorithm for every case that it can do, or "rule" for the rules alone; none: `recorded`, `measured`
        and the rules, in this order.
      recorded: what a run was begun with, by the name of the case; it keeps its bits so. What is taken is added.
      measured: what was measured on this machine before; what is measured is added.
      memory_bytes: what the patches of one convolution may take.
      seconds: time left for measuring cases that `measured` lacks.
      say: told what is being measured.
    """

    override: str | None = None
    recorded: MutableMapping[str, str] = field(default_factory=dict)
    measured: MutableMapping[str, Mapping[str, float]] = field(default_factory=dict)
    memory_bytes: float = 1e9
    seconds: float = 0.0
    say: Callable[[str], None] = lambda line: None

    def choose(self, case: Case) -> str:
        """Returns the algorithm for a case, and remembers it."""
        able = candidates(case, self.memory_bytes)
        name = str(case)
        by_rule = rule(case, able)
        if self.override is not None:  # "rule" is the name of no algorithm
            chosen = self.override if self.override in able else by_rule
            self.recorded[name] = chosen
        elif self.recorded.get(name) in able:
            chosen = self.recorded[name]
        else:
            chosen = self._fastest(case, able, by_rule)
            first = self.recorded.setdefault(name, chosen)  # another process may have chosen meanwhile
            chosen = first if first in able else chosen
        return chosen

    def _fastest(self, case: Case, able: Sequence[str], by_rule: str) -> str:
        name = str(case)
        if name not in self.measured and self.seconds > 0 and len(able) > 1 and case.macs >= LEAST_MACS:
            self.say(f"timing ways to compute a convolution: {name}")
            start = time.perf_counter()
            taken = {algorithm: measure(case, algorithm) for algorithm in able}
            self.measured[name] = {algorithm: s for algorithm, s in taken.items() if math.isfinite(s)}
            self.seconds -= time.perf_counter() - start
        seconds = {algorithm: s for algorithm, s in self.measured.get(name, {}).items() if algorithm in able}
        if by_rule not in seconds:
            return by_rule
        best = min(seconds, key=seconds.__getitem__)
        return best if seconds[best] < CLEARLY * seconds[by_rule] else by_rule


def device_name() -> str:
    """Returns what the times of convolutions depend on: the device, how much of it there is, and XLA's version."""
    kind = device_kind()
    if jax.default_backend() == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        kind += f", {cores} cores"
    return f"{kind}, jaxlib {version('jaxlib')}"


def device_kind() -> str:
    """Returns what the device is, of a CPU the processor's name, however much of it there is."""
    return _processor() if jax.default_backend() == "cpu" else jax.devices()[0].device_kind


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine()


_choices = Choices()


@contextlib.contextmanager
def use(choices: Choices) -> Iterator[Choices]:
    """Makes `choices` decide for what is traced meanwhile.

    What was compiled before in this process is used again, and its choices are added to what is recorded; where they
    contradict `choices`, JAX forgets all it compiled.
    """
    global _choices
    before = _choices
    _follow(before, choices)
    _choices = choices
    try:
        yield choices
    finally:
        _follow(choices, before)
        _choices = before


def override() -> str | None:
    """Returns the algorithm that `use` was told to take wherever it can, if any."""
    return _choices.override


def _follow(before: Choices, after: Choices) -> None:
    """Makes what was compiled under `before` right under `after`."""
    known = {**before.recorded, **after.recorded}
    if before.override != after.override or any(known[name] != taken for name, taken in before.recorded.items()):
        jax.clear_caches()
    else:
        after.recorded.update(known)


def candidates(case: Case, memory_bytes: float = math.inf) -> tuple[str, ...]:
    """Returns the algorithms that can do a case, and whose patches fit."""
    window, able = case.window, ["xla"]
    if window.groups > 1 and not case.depthwise:
        able.append("groups")
    plain = window.dimension_numbers == jax.lax.ConvDimensionNumbers(*IMAGES_LAST)
    if plain and set(window.lhs_dilation) == {1} and 0 not in case.output:
        if window.groups == 1:
            if case.patch_bytes <= memory_bytes:
                able.append("patches")
            if math.prod(case.kernel[:2]) > 1:
                able.append("shifts")
            if _is_winograds(case):
                able.append("winograd")
        elif case.depthwise:
            able.append("shifts")
    if case.lanes:
        able.append("lanes")
    return tuple(able)


def rule(case: Case, able: Sequence[str]) -> str:
    """Returns the algorithm of `able` to take without a measurement of the case itself."""
    if jax.default_backend() != "cpu":
        return "xla"
    if case.depthwise and "shifts" in able:
        return "shifts"
    if case.lanes and all(case.batched):
        if case.lanes <= MOST_LANES:
            return "lanes"
        return "patches" if "patches" in able else "lanes"
    if "patches" in able and math.prod(case.kernel[:2]) == 1:
        return "patches"
    if "winograd" in able and min(case.kernel[2:]) >= 32:
        return "winograd"
    if "patches" in able and case.operation != "kernel" and max(case.output[1:3]) <= 2:
        return "patches"  # XLA takes up to eighty times as long there
    return "xla"


def measure(case: Case, algorithm: str, rounds: int = 5, most_seconds: float = 0.5) -> float:
    """Returns the least seconds that a case took by an algorithm, compiled; infinity where the device cannot do it."""
    shapes = {
        "output": (case.images, case.kernel),
        "images": (case.output, case.kernel),
        "kernel": (case.images, case.output),
    }[case.operation]
    lanes = [(case.lanes,) if batched else () for batched in case.batched]
    rng = np.random.Generator(np.random.PCG64(0))
    seconds: list[float] = []
    with (
        contextlib.suppress(jax.errors.JaxRuntimeError),  # such as too little memory
        jax.ensure_compile_time_eval(),
        jax.enable_x64(np.dtype(case.dtype).itemsize == 8),
    ):
        args = [jnp.asarray(rng.normal(size=(*n, *s)), case.dtype) for n, s in zip(lanes, shapes)]
        run = jax.jit(functools.partial(compute, case, algorithm)).lower(*args).compile()
        run(*args).block_until_ready()
        while len(seconds) < rounds and sum(seconds) < most_seconds:
            start = time.perf_counter()
            run(*args).block_until_ready()
            seconds.append(time.perf_counter() - start)
    return min(seconds, default=math.inf)


# --- the convolution --------------------------------------------------------------------------------------------


def convolve(
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
    """Returns `lax.conv_general_dilated` of the same arguments, with its gradients, to any order in reverse mode.

    Forward-mode derivatives are an error of JAX's.
    """
    numbers = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    ones = (1,) * (lhs.ndim - 2)
    rhs_dilation = tuple(rhs_dilation or ones)
    if isinstance(padding, str):
        effective = [(rhs.shape[axis] - 1) * step + 1 for axis, step in zip(numbers.rhs_spec[2:], rhs_dilation)]
        sizes = [lhs.shape[axis] for axis in numbers.lhs_spec[2:]]
        padding = jax.lax.padtype_to_pads(sizes, effective, window_strides, padding)
    window = Window(
        tuple(window_strides),
        tuple((int(low), int(high)) for low, high in padding),
        tuple(lhs_dilation or ones),
        rhs_dilation,
        numbers,
        feature_group_count,
        precision,
    )
    return _make_convolution(window, lhs.shape, rhs.shape)(lhs, rhs)


@functools.cache
def _make_convolution(window: Window, images_shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> Binary:
    """Returns the convolution, with its gradients."""

    def differentiable(operation: str, backward: Callable[..., tuple[jax.Array, jax.Array]]) -> Binary:
        # JAX cannot differentiate what has a rule of its own for vmap; so each of the three has one for both, and calls
        # itself in its forward pass, which second derivatives differentiate.
        wrapped = jax.custom_vjp(_by_lanes(operation, window, images_shape, kernel_shape))
        wrapped.defvjp(lambda a, b: (wrapped(a, b), (a, b)), lambda saved, out: backward(*saved, out))
        return wrapped

    output = differentiable("output", lambda x, k, out: (to_images(out, k), to_kernel(x, out)))
    to_images = differentiable("images", lambda g, k, out: (output(out, k), to_kernel(out, g)))
    to_kernel = differentiable("kernel", lambda x, g, out: (to_images(g, out), output(x, out)))
    return output


def _by_lanes(operation: str, window: Window, images: tuple[int, ...], kernel: tuple[int, ...]) -> Binary:
    """Returns one of the three functions, with the rule for `vmap` that chooses anew for all lanes together."""

    def function(a: jax.Array, b: jax.Array) -> jax.Array:
        case = Case(operation, window, images, kernel, str(a.dtype))
        return compute(case, _choices.choose(case), a, b)

    one = jax.custom_batching.custom_vmap(function)

    @one.def_vmap
    def rule(axis_size: int, in_batched: Sequence[bool], a: jax.Array, b: jax.Array) -> tuple[jax.Array, bool]:
        case = Case(operation, window, images, kernel, str(a.dtype), axis_size, (in_batched[0], in_batched[1]))
        algorithm = _choices.choose(case)
        if algorithm == "lanes":  # through `one`, so that a further vmap is seen too
            return _each_lane(one, case, a, b), True
        return compute(case, algorithm, a, b), True

    return one


def compute(case: Case, algorithm: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns what a case is, by an algorithm."""
    if not case.lanes:
        return _ALGORITHMS[algorithm](case, a, b)
    alone = replace(case, lanes=0, batched=(False, False))
    if algorithm == "lanes":
        return _each_lane(lambda a, b: compute(alone, _choices.choose(alone), a, b), case, a, b)
    axes = tuple(0 if batched else None for batched in case.batched)
    return jax.vmap(functools.partial(_ALGORITHMS[algorithm], alone), in_axes=axes)(a, b)


def _each_lane(function: Binary, case: Case, a: jax.Array, b: jax.Array) -> jax.Array:
    def lane(array: jax.Array, batched: bool, i: int) -> jax.Array:
        return array[i] if batched else array

    lanes = range(case.lanes)
    return jnp.stack([function(lane(a, case.batched[0], i), lane(b, case.batched[1], i)) for i in lanes])


# --- the algorithms: (case, its two arguments) -> what it is, of one lane ---------------------------------------


def _hold(x: jax.Array) -> jax.Array:
    """Returns `x`, which XLA's CPU backend then computes once and keeps.

    It would compute whatever made `x` anew in every loop that reads it, through all elementwise layers back to the last
    convolutions; where that loop reads out of order, or a place several times, this costs more than the convolution. It
    drops `lax.optimization_barrier` too early to be held up by it. A branch that is always taken holds.
    """
    if jax.default_backend() != "cpu" or x.size == 0:
        return x
    first = x.ravel()[0]
    return jax.lax.cond(first * 0 != 1, lambda x: x, lambda x: x + 1, x)  # of nan too, so nobody can tell beforehand


def _output_shape(window: Window, images: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
    lhs, rhs, out = window.dimension_numbers
    shape = [0] * len(images)
    shape[out[0]], shape[out[1]] = images[lhs[0]], kernel[rhs[0]]
    for i, (low, high) in enumerate(window.padding):
        size = (images[lhs[2 + i]] - 1) * window.lhs_dilation[i] + 1 if images[lhs[2 + i]] else 0
        reach = (kernel[rhs[2 + i]] - 1) * window.rhs_dilation[i] + 1
        shape[out[2 + i]] = max((size + low + high - reach) // window.strides[i] + 1, 0)
    return tuple(shape)


def _conv(window: Window, images: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        window.strides,
        window.padding,
        window.lhs_dilation,
        window.rhs_dilation,
        window.dimension_numbers,
        window.groups,
        precision=window.precision,
    )


def _transposed(forward: Callable[[Window, jax.Array, jax.Array], jax.Array], case: Case, a: Any, b: Any) -> jax.Array:
    """Returns the case from the convolution alone, which is linear in either argument."""
    if case.operation == "output":
        return forward(case.window, a, b)
    if case.operation == "images":
        images = jax.ShapeDtypeStruct(case.images, a.dtype)
        return jax.linear_transpose(lambda x: forward(case.window, x, b), images)(a)[0]
    kernel = jax.ShapeDtypeStruct(case.kernel, b.dtype)
    return jax.linear_transpose(lambda k: forward(case.window, a, k), kernel)(b)[0]


def _by_groups(window: Window, images: jax.Array, kernel: jax.Array) -> jax.Array:
    lhs, rhs, out = window.dimension_numbers
    alone = replace(window, groups=1)
    parts = zip(jnp.split(images, window.groups, lhs[1]), jnp.split(kernel, window.groups, rhs[0]))
    return jnp.concatenate([_conv(alone, x, k) for x, k in parts], out[1])


def _xla(case: Case, a: jax.Array, b: jax.Array) -> jax.Array:
    if case.operation == "kernel":  # which transposes both first
        a, b = _hold(a), _hold(b)
    return _transposed(_conv, case, a, b)


def _groups(case: Case, a: jax.Array, b: jax.Array) -> jax.Array:
    return _transposed(_by_groups, case, a, b)


def _patches(case: Case, a: jax.Array, b: jax.Array) -> jax.Array:
    if case.operation == "kernel":
        columns = _side_by_side(case.window, a, case.kernel)
        product = jax.lax.dot_general(columns, b, (((0, 1, 2), (0, 1, 2)), ((), ())), precision=case.window.precision)
        return product.reshape(case.kernel)
    if case.operation == "images" and math.prod(case.kernel[:2]) == 1:  # spread after the product, not before
        return _transposed(lambda window, x, k: _patches(replace(case, operation="output"), x, k), case, a, b)
    window, images, kernel = (case.window, a, b) if case.operation == "output" else _towards_images(case, a, b)
    columns = _side_by_side(window, images, kernel.shape)
    flat = (kernel if case.operation == "output" else kernel.swapaxes(2, 3)).reshape(columns.shape[-1], -1)
    return _product(columns, flat, 0, window)


def _shifts(case: Case, a: jax.Array, b: jax.Array) -> jax.Array:
    depthwise = case.depthwise
    if case.operation == "kernel":
        return _kernel_by_shifts(case, a, b)
    window, images, kernel = (case.window, a, b) if case.operation == "output" else _towards_images(case, a, b)
    padded = _pad(window, images)
    total: jax.Array | None = None
    for i, j in np.ndindex(kernel.shape[:2]):
        shifted = _shift(window, padded, kernel.shape, i, j)
        if depthwise:
            part = shifted * kernel[i, j].reshape(1, 1, 1, -1)
        else:
            part = _product(shifted, kernel[i, j], _channels_axis(case), window)
        total = part if total is None else total + part
    assert total is not None
    return total


def _kernel_by_shifts(case: Case, images: jax.Array, grads: jax.Array) -> jax.Array:
    window, kernel = case.window, case.kernel
    places = list(np.ndindex(kernel[:2]))
    if not case.depthwise:
        padded = _pad(window, images)
        dims = (((0, 1, 2), (0, 1, 2)), ((), ()))
        shifted = [_shift(window, padded, kernel, i, j) for i, j in places]
        return jnp.stack([jax.lax.dot_general(x, grads, dims, precision=window.precision) for x in shifted]).reshape(
            kernel
        )
    # Image by image, each of which then stays in the processor's cache for all of its shifts.
    padded = _pad(window, images)
    _, rows, columns, channels = grads.shape

    def add(sums: jax.Array, one: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        image, grad = one
        added = []
        for place, (i, j) in enumerate(places):
            total = sums[place]
            across = _every(j * window.rhs_dilation[1], columns, window.strides[1])
            for row in range(rows):
                total = total + image[i * window.rhs_dilation[0] + row * window.strides[0], across] * grad[row]
            added.append(total)
        return jnp.stack(added), None

    sums, _ = jax.lax.scan(add, jnp.zeros((len(places), columns, channels), grads.dtype), (padded, grads))
    return sums.sum(1).reshape(kernel)


# Lavin & Gray 2016, section 4.1: what makes images, kernel and products of one dimension into 2 outputs of 3 taps.
_OF_IMAGES = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_OF_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OF_PRODUCTS = ((1, 1, 1, 0), (0, 1, -1, -1))
_CACHE_BYTES = 8_000_000  # of images at a time: their tiles and products are four times as large, and stay in the cache


def _is_winograds(case: Case) -> bool:
    window = case.window
    stepless = set(window.strides) == set(window.rhs_dilation) == {1}
    precise = np.dtype(case.dtype) in (np.float32, np.float64)
    return case.operation != "kernel" and case.kernel[:2] == (3, 3) and stepless and precise


def _winograd(case: Case, a: jax.Array, b: jax.Array) -> jax.Array:
    window, images, kernel = (case.window, a, b) if case.operation == "output" else _towards_images(case, a, b)
    images = _pad(window, images)
    rows, columns = (size - 2 for size in images.shape[1:3])
    images = jnp.pad(images, ((0, 0), (0, rows % 2), (0, columns % 2), (0, 0)))
    tall, wide = (rows + 1) // 2, (columns + 1) // 2
    taps = [_mix(_OF_KERNEL, [row[j] for j in range(3)]) for row in _mix(_OF_KERNEL, [kernel[i] for i in range(3)])]

    def of(piece: jax.Array) -> jax.Array:
        stripes = _mix(_OF_IMAGES, [piece[:, _every(i, tall, 2)] for i in range(4)])
        products = []
        for stripe, of_stripe in zip(stripes, taps):
            tiles = _mix(_OF_IMAGES, [stripe[:, :, _every(j, wide, 2)] for j in range(4)])
            products.append([_product(x, tap, _channels_axis(case), window) for x, tap in zip(tiles, of_stripe)])
        narrow = [_mix(_OF_PRODUCTS, row) for row in products]
        outputs = [_mix(_OF_PRODUCTS, [row[j] for row in narrow]) for j in range(2)]  # by column, by row, of each 2x2
        woven = jnp.stack([jnp.stack([outputs[j][i] for j in range(2)], 3) for i in range(2)], 2)
        return woven.reshape(len(piece), 2 * tall, 2 * wide, -1)[:, :rows, :columns]

    num_bytes = math.prod(images.shape) * images.dtype.itemsize
    pieces = next((i for i in range(1, len(images) + 1) if len(images) % i == 0 and num_bytes / i <= _CACHE_BYTES), 1)
    if pieces == 1:
        return of(images)
    outputs = jax.lax.map(of, images.reshape(pieces, -1, *images.shape[1:]))
    return outputs.reshape(len(images), *outputs.shape[2:])


def _mix(matrix: Sequence[Sequence[float]], parts: Sequence[jax.Array]) -> list[jax.Array]:
    """Returns `matrix @ parts`, without what is multiplied by nothing."""
    mixed = []
    for row in matrix:
        terms = [part if factor == 1 else factor * part for factor, part in zip(row, parts) if factor]
        mixed.append(functools.reduce(jnp.add, terms))
    return mixed


_ALGORITHMS: dict[str, Callable[[Case, jax.Array, jax.Array], jax.Array]] = {
    "xla": _xla,
    "patches": _patches,
    "shifts": _shifts,
    "winograd": _winograd,
    "groups": _groups,
}
ALGORITHMS = (*_ALGORITHMS, "lanes")


def _towards_images(case: Case, grads: jax.Array, kernel: jax.Array) -> tuple[Window, jax.Array, jax.Array]:
    """Returns (window, images, kernel) of the convolution that the gradient towards the images is.

    It is of the output's gradients, as far apart as the strides, under the kernel turned round, whose features are its
    channels then (they stay where they are: `_channels_axis`).
    """
    window = case.window
    border = []
    for size, count, k, stride, dilation, (before, _) in zip(
        case.images[1:3], grads.shape[1:3], kernel.shape[:2], window.strides, window.rhs_dilation, window.padding
    ):
        reach = (k - 1) * dilation
        low = reach - before
        border.append((low, size + reach - ((count - 1) * stride + 1) - low, stride - 1))
    spread = jax.lax.pad(grads, jnp.zeros((), grads.dtype), ((0, 0, 0), *border, (0, 0, 0)))
    turned = kernel[::-1, ::-1]
    alone = replace(window, strides=(1, 1), padding=((0, 0), (0, 0)))
    return alone, spread, turned


def _channels_axis(case: Case) -> int:
    """Returns which axis of a place of the kernel, [channels, features], is summed over."""
    return 0 if case.operation == "output" else 1


def _product(images: jax.Array, matrix: jax.Array, axis: int, window: Window) -> jax.Array:
    """Returns the product of the images' channels with `matrix`, summed over its `axis`."""
    return jax.lax.dot_general(images, matrix, (((3,), (axis,)), ((), ())), precision=window.precision)


def _pad(window: Window, images: jax.Array) -> jax.Array:
    border = ((0, 0, 0), *((low, high, 0) for low, high in window.padding), (0, 0, 0))
    return jax.lax.pad(images, jnp.zeros((), images.dtype), border)


def _shift(window: Window, padded: jax.Array, kernel: tuple[int, ...], i: int, j: int) -> jax.Array:
    """Returns what lies under place (i, j) of the kernel, wherever it is laid."""
    slices = []
    for size, k, place, stride, dilation in zip(
        padded.shape[1:3], kernel[:2], (i, j), window.strides, window.rhs_dilation
    ):
        count = (size - (k - 1) * dilation - 1) // stride + 1
        slices.append(_every(place * dilation, count, stride))
    return padded[:, slices[0], slices[1]]


def _every(first: int, count: int, stride: int) -> slice:
    return slice(first, first + max((count - 1) * stride + 1, 0), stride)


def _side_by_side(window: Window, images: jax.Array, kernel: tuple[int, ...]) -> jax.Array:
    """Returns [n, rows, columns, places * channels]: what lies under the kernel, wherever it is laid."""
    padded = _pad(window, images)
    return jnp.concatenate([_shift(window, padded, kernel, i, j) for i, j in np.ndindex(kernel[:2])], -1)
