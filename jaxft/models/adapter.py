"""A network of any Flax module, whose blocks a person names.

A block is a submodule that the module's `__call__` calls once, such as `stem` or `stage1/block2`. Whatever is computed
between two blocks belongs to the first of them. The module is left after a block where the next one is called; it is
entered at a block by giving it that block's input, while the blocks before it are not computed.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxft.core.errors import UserError
from jaxft.models.network import Network, Preprocessing, Tap
from jaxft.ops.precision import Precision, compute_dtype, products

if TYPE_CHECKING:
    from jax.extend.core import Jaxpr


class _Left(Exception):
    """Carries the input of the block after the one at which the module is left."""


class BlockCall(NamedTuple):
    """The shapes of a block's input and output for one image of the usual size."""

    entering: tuple[int, ...]
    leaving: tuple[int, ...]


class Adapted(Network):
    """A network around a Flax module, whose parameters keep their names; made by `adapt`."""

    module: nn.Module = None  # always given, but fields before it have defaults
    blocks: tuple[str, ...] = ()
    default_preprocessing: Preprocessing = None  # type: ignore[assignment]
    name_in_messages: str = ""
    shortcuts: tuple[str, ...] = ()
    calls: tuple[BlockCall, ...] = ()

    def setup(self) -> None:
        nn.share_scope(self, self.module)

    def __call__(
        self,
        x: jax.Array,
        train: bool = False,
        start: str | None = None,
        stop: str | None = None,
        filler: jax.Array | float = jnp.nan,
    ) -> jax.Array:
        """Returns the output of block `stop` for the input of block `start`, as every network does.

        Args:
          filler: the value of all outputs of blocks that are not computed; nothing depends on it.
        """
        if start == self.blocks[0]:  # it is entered with images, and what the module does before it is done to them
            start = None
        begin = self.blocks.index(start) if start else 0
        end = self.blocks.index(stop) if stop else len(self.blocks) - 1
        if begin > end:
            raise ValueError(f"start={start!r} comes after stop={stop!r}.")
        dtype, x = x.dtype, x.astype(compute_dtype(self.precision, x.dtype))
        index_of = {(*self.path, *block.split("/")): i for i, block in enumerate(self.blocks)}

        def call(block: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            index = index_of.get(context.module.path) if context.method_name == "__call__" else None
            if index is None:
                return block(*args, **kwargs)
            if index < begin:
                return jnp.full((len(x), *self.calls[index].leaving[1:]), filler, x.dtype)
            if index > end:
                raise _Left(args[0])
            return block(x if index == begin and start else args[0], *args[1:], **kwargs)

        inputs = x
        if start:  # what the module does before block `start` is done to a filler
            side = self.default_preprocessing.size_px
            inputs = jnp.full((len(x), side, side, 3), filler, x.dtype)
        options = {"train": train} if _takes_train(self.module) else {}
        with nn.intercept_methods(call), products(self.precision):
            try:
                y = self.module(inputs, **options)
            except _Left as left:
                (y,) = left.args
        return y.astype(dtype)

    def computing(self, precision: Precision) -> "Adapted":
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
            Tap(block, block, side // after.entering[1], None)
            for block, after in zip(self.blocks, self.calls[1:])
            if len(after.entering) == 4
        )

    @property
    def residual_blocks(self) -> tuple[str, ...]:
        return self.shortcuts

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
    """Returns the network of a Flax module that classifies images [n, height, width, 3].

    The network can be entered and left at each of `blocks`; all but the last can be frozen, copied and read as
    features. If the module's `__call__` has an argument `train`, it is given. Batch norms of
    `jaxft.models.layers.BatchNorm` can be recalibrated and normalize virtual batches, those of Flax cannot.

    Args:
      module: the module, with hashable fields.
      blocks: paths of submodules in the order in which they are called, each once: `stem`, `stage1/block2`. The last
        is the head, a classifier; the one before it is the feature block. All parameters lie in blocks.
      preprocessing: what the module expects of images, and their usual size.
      name: what messages and records call the network, and the family under which namings of its weight files are
        registered; the module's class by default.
      residual_blocks: those of `blocks` that call `jaxft.models.layers.branch`, for stochastic depth.

    Raises:
      UserError: a block is not called, not in this order, or more than once; a parameter lies in no block; or a block
        reads more than the output of the block before it.

    Example:
      >>> network = adapt(MyModule(num_classes=10), ["stem", "body", "pool", "head"], Preprocessing(32, MEAN, STD))
      >>> variables = init_variables(network, jax.random.key(0), 32)
      >>> features = network.apply(variables, images, stop=network.feature_block)
    """
    return _adapt(module, tuple(blocks), preprocessing, name or type(module).__name__.lower(), tuple(residual_blocks))


@functools.lru_cache(maxsize=64)
def _adapt(
    module: nn.Module, blocks: tuple[str, ...], preprocessing: Preprocessing, name: str, shortcuts: tuple[str, ...]
) -> Adapted:
    """Returns the network, after checking that it can be entered and left at each block."""
    if len(blocks) < 2:
        raise UserError(f"{name} has the blocks {', '.join(blocks) or 'none'}; name two or more, the head last.")
    calls, num_classes = _trace(module, blocks, preprocessing, name)
    network = Adapted(
        num_classes=num_classes,
        module=module,
        blocks=blocks,
        default_preprocessing=preprocessing,
        name_in_messages=name,
        shortcuts=shortcuts,
        calls=calls,
    )
    outside = [
        leaf
        for leaf in network.structure.shapes
        if not leaf.partition("/")[2].startswith(tuple(f"{block}/" for block in blocks))
    ]
    if outside:
        raise UserError(
            f"{name} has {len(outside)} parameters or statistics in none of its blocks, such as {outside[0]}."
        )
    for block in blocks[1:]:
        if _reads_before(network, block):
            raise UserError(
                f"{name} cannot be entered at its block {block!r}, as what follows reads more than the output of the "
                "block before it; name one block around both ends of a shortcut."
            )
    return network


def _trace(
    module: nn.Module, blocks: tuple[str, ...], preprocessing: Preprocessing, name: str
) -> tuple[tuple[BlockCall, ...], int]:
    """Returns the shapes of each block's input and output, and the number of classes."""
    called: list[tuple[str, BlockCall]] = []

    def call(block: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        out = block(*args, **kwargs)
        path = "/".join(context.module.path)
        if path in blocks and context.method_name == "__call__":
            called.append((path, BlockCall(args[0].shape, out.shape)))
        return out

    def run(images: jax.Array) -> jax.Array:
        options = {"train": False} if _takes_train(module) else {}
        with nn.intercept_methods(call):
            return module.init_with_output(jax.random.key(0), images, **options)[0]

    side = preprocessing.size_px
    logits = jax.eval_shape(run, jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    order = tuple(block for block, _ in called)
    if order != blocks:
        raise UserError(
            f"{name} calls the blocks {', '.join(order) or 'none'}; they were named as {', '.join(blocks)}."
        )
    return tuple(shapes for _, shapes in called), logits.shape[-1]


def _reads_before(network: Adapted, block: str) -> bool:
    """Tells whether the output from `block` on depends on what blocks before the one below it have computed."""
    side = network.preprocessing.size_px
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    below = network.blocks[network.blocks.index(block) - 1]
    x = jax.eval_shape(lambda v, x: network.apply(v, x, stop=below), variables, images)

    def run(filler: jax.Array, variables: Any, x: jax.Array) -> jax.Array:
        return network.apply(variables, x, start=block, filler=filler)

    filler = jax.ShapeDtypeStruct((), jnp.float32)
    return _depends_on_first(jax.make_jaxpr(run)(filler, variables, x).jaxpr)


def _depends_on_first(jaxpr: "Jaxpr") -> bool:
    """Tells whether an output depends on the first input, where an equation's outputs depend on all its inputs."""
    reached = {jaxpr.invars[0]}
    for equation in jaxpr.eqns:
        if any(not hasattr(var, "val") and var in reached for var in equation.invars):  # literals have a value
            reached |= set(equation.outvars)
    return any(not hasattr(var, "val") and var in reached for var in jaxpr.outvars)


def _takes_train(module: nn.Module) -> bool:
    return "train" in inspect.signature(type(module).__call__).parameters
