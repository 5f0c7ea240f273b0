"""`adapt`: a network from any Flax module and a list of its blocks.

A block is a submodule that the `__call__` of the module calls once, such as `stem` or `stage1/block2`. Computation
between two blocks belongs to the first of them. To stop after a block, a Flax interceptor raises an exception at
the call of the next block. To start at a block, the interceptor replaces the input of this block, and skips the blocks
before it.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxft.core.errors import UserError
from jaxft.core.text import plural, some_of
from jaxft.models.network import Network, Preprocessing, Tap
from jaxft.ops.precision import Precision, compute_dtype, products

if TYPE_CHECKING:
    from jax.extend.core import Jaxpr

MOST_NAMED = 3  # parameters that an error names


class _Stopped(Exception):
    """Stops the module after block `stop`; the argument is the input of the next block."""


class BlockShapes(NamedTuple):
    """Shapes of the input and the output of a block for one image of the default size."""

    input: tuple[int, ...]
    output: tuple[int, ...]


class Adapted(Network):
    """A network around a Flax module, created by `adapt`. The parameters of the module keep their names."""

    module: nn.Module = None  # required; the default is there because earlier fields have one
    blocks: tuple[str, ...] = ()
    default_preprocessing: Preprocessing = None  # type: ignore[assignment]
    name_in_messages: str = ""
    blocks_with_shortcut: tuple[str, ...] = ()
    block_shapes: tuple[BlockShapes, ...] = ()

    def setup(self) -> None:
        nn.share_scope(self, self.module)

    def __call__(
        self,
        x: jax.Array,
        train: bool = False,
        after: str | None = None,
        stop: str | None = None,
        filler: jax.Array | float = jnp.nan,
    ) -> jax.Array:
        """Returns the output of block `stop` for `x`, the output of block `after`; see `Network`.

        Args:
          x: the output of `after`; if `after` is None, preprocessed images [n, height, width, 3].
          train: whether batch norms use the statistics of the batch and update the running statistics.
          after: name of the block whose output is `x`; the blocks above it run. If None, all blocks up to `stop` run.
          stop: name of the last block that runs. If None, the head.
          filler: value of the images and of the outputs of skipped blocks, if `after` is given. The result does not
            depend on it.

        Raises:
          ValueError: there is no block `after` or `stop`, or `stop` comes before `after`.
        """
        running = self.blocks_after(after, stop)
        if not running:
            return x
        begin, end = self.blocks.index(running[0]), self.blocks.index(running[-1])
        dtype, x = x.dtype, x.astype(compute_dtype(self.precision, x.dtype))
        index_of = {(*self.path, *block.split("/")): i for i, block in enumerate(self.blocks)}

        def call(block: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            index = index_of.get(context.module.path) if context.method_name == "__call__" else None
            if index is None:
                return block(*args, **kwargs)
            if index < begin:
                return jnp.full((len(x), *self.block_shapes[index].output[1:]), filler, x.dtype)
            if index > end:
                raise _Stopped(args[0])
            return block(x if index == begin and after else args[0], *args[1:], **kwargs)

        inputs = x
        if after:  # computation outside of the blocks that run gets constant images
            side = self.default_preprocessing.size_px
            inputs = jnp.full((len(x), side, side, 3), filler, x.dtype)
        options = {"train": train} if _takes_train(self.module) else {}
        with nn.intercept_methods(call), products(self.precision):
            try:
                y = self.module(inputs, **options)
            except _Stopped as stopped:
                (y,) = stopped.args
        return y.astype(dtype)

    def with_precision(self, precision: Precision) -> "Adapted":
        return self.clone(precision=precision)

    @property
    def architecture(self) -> str:
        return self.name_in_messages

    @property
    def family(self) -> str:
        return self.name_in_messages

    @property
    def taps(self) -> tuple[Tap, ...]:
        side = self.default_preprocessing.size_px
        return tuple(
            Tap(block, block, side // following.input[1], None)
            for block, following in zip(self.blocks, self.block_shapes[1:])
            if len(following.input) == 4
        )

    @property
    def residual_blocks(self) -> tuple[str, ...]:
        return self.blocks_with_shortcut

    @property
    def preprocessing(self) -> Preprocessing:
        return self.default_preprocessing


def adapt(
    module: nn.Module,
    blocks: Sequence[str],
    preprocessing: Preprocessing,
    *,
    name: str = "",
    residual_blocks: Sequence[str] = (),
) -> Network:
    """Returns a network from a Flax module that classifies images [n, height, width, 3].

    The network can stop at each block and continue after it. All blocks except the head can be frozen, transferred, and
    used as features. If the `__call__` of the module has a parameter `train`, the network passes `train` to it.
    Recalibration of batch norms and virtual batches work for `jaxft.models.layers.BatchNorm`, not for
    `flax.linen.BatchNorm`.

    Args:
      module: the module, with hashable fields.
      blocks: paths of submodules, such as `stem` or `stage1/block2`, in the order in which the module calls them, each
        once. The last block is the head, and the block before it is the feature block. Each parameter belongs to a
        block.
      preprocessing: the preprocessing that the module expects, with the default image size.
      name: name of the network in messages and records, and the family of its namings of weight files. By default,
        the name of the class in lower case.
      residual_blocks: the blocks that call `jaxft.models.layers.branch`, for stochastic depth.

    Raises:
      UserError: there are fewer than two blocks, the module does not call them once each in this order, a parameter
        belongs to no block, or a block depends on more than the output of the block before it.

    Example:
      >>> blocks = ["stem", "stage1", "pool", "head"]
      >>> network = adapt(MyModule(num_classes=10), blocks, Preprocessing(32, MEAN, STD))
      >>> variables = init_variables(network, jax.random.key(0), 32)
      >>> features = network.apply(variables, images, stop=network.feature_block)
    """
    return _adapt(module, tuple(blocks), preprocessing, name or type(module).__name__.lower(), tuple(residual_blocks))


@functools.lru_cache(maxsize=64)
def _adapt(
    module: nn.Module,
    blocks: tuple[str, ...],
    preprocessing: Preprocessing,
    name: str,
    blocks_with_shortcut: tuple[str, ...],
) -> Adapted:
    """Returns the network of `adapt`, after a check that it can stop at each block and continue after it."""
    if len(blocks) < 2:
        raise UserError(f"{name} has {plural(len(blocks), 'block')}; list at least two, with the head last.")
    block_shapes, num_classes = _trace(module, blocks, preprocessing, name)
    network = Adapted(
        num_classes=num_classes,
        module=module,
        blocks=blocks,
        default_preprocessing=preprocessing,
        name_in_messages=name,
        blocks_with_shortcut=blocks_with_shortcut,
        block_shapes=block_shapes,
    )
    outside = [
        leaf
        for leaf in network.structure.shapes
        if not leaf.partition("/")[2].startswith(tuple(f"{block}/" for block in blocks))
    ]
    if outside:
        raise UserError(
            f"{name} has {len(outside)} parameters or statistics outside its blocks: {some_of(outside, MOST_NAMED)}."
        )
    for block in blocks[:-1]:
        if _depends_on_more_than(network, block):
            raise UserError(
                f"{name} cannot continue after block {block!r}: the logits depend on more than the output of this "
                "block; use one block that contains both ends of the shortcut."
            )
    return network


def _trace(
    module: nn.Module, blocks: tuple[str, ...], preprocessing: Preprocessing, name: str
) -> tuple[tuple[BlockShapes, ...], int]:
    """Returns the input and output shapes of each block, and the number of classes."""
    called: list[tuple[str, BlockShapes]] = []

    def call(block: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        out = block(*args, **kwargs)
        path = "/".join(context.module.path)
        if path in blocks and context.method_name == "__call__":
            called.append((path, BlockShapes(args[0].shape, out.shape)))
        return out

    def run(images: jax.Array) -> jax.Array:
        options = {"train": False} if _takes_train(module) else {}
        with nn.intercept_methods(call):
            return module.init_with_output(jax.random.key(0), images, **options)[0]

    side = preprocessing.size_px
    logits = jax.eval_shape(run, jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    order = tuple(block for block, _ in called)
    if order != blocks:
        pairs = enumerate(itertools.zip_longest(order, blocks, fillvalue="none"), 1)
        number, actual, listed = next((i, actual, listed) for i, (actual, listed) in pairs if actual != listed)
        raise UserError(
            f"block {number} of {name} is {listed} in the list of blocks, but {actual} in the module; "
            "list each block once, in the order of the calls."
        )
    return tuple(shapes for _, shapes in called), logits.shape[-1]


def _depends_on_more_than(network: Adapted, block: str) -> bool:
    """Returns whether the logits depend on the images other than through the output of `block`."""
    side = network.preprocessing.size_px
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    x = jax.eval_shape(lambda v, x: network.apply(v, x, stop=block), variables, images)

    def run(filler: jax.Array, variables: Any, x: jax.Array) -> jax.Array:
        return network.apply(variables, x, after=block, filler=filler)

    filler = jax.ShapeDtypeStruct((), jnp.float32)
    return _depends_on_first(jax.make_jaxpr(run)(filler, variables, x).jaxpr)


def _depends_on_first(jaxpr: "Jaxpr") -> bool:
    """Returns whether an output may depend on the first input: each equation is assumed to use all its inputs."""
    dependent = {jaxpr.invars[0]}
    for equation in jaxpr.eqns:
        if any(not hasattr(var, "val") and var in dependent for var in equation.invars):  # only literals have `val`
            dependent |= set(equation.outvars)
    return any(not hasattr(var, "val") and var in dependent for var in jaxpr.outvars)


def _takes_train(module: nn.Module) -> bool:
    return "train" in inspect.signature(type(module).__call__).parameters
