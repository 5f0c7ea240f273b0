"""Guided backpropagation: a network whose ReLUs let only positive gradients pass."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

# Operations whose result is 0 if their input is 0, in which the constant of `max(x, 0)` may be wrapped.
KEEP_ZERO = ("broadcast_in_dim", "convert_element_type", "reshape")


def guided(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function with the values of `function`, in whose gradient every ReLU is guided.

    The gradient g at the output of a ReLU with input x becomes g at its input if x > 0 and g > 0, and 0 otherwise. So
    `gradient_saliency(guided(scores), ...)` is guided backpropagation. The result can be compiled and differentiated
    once in reverse mode.

    The ReLUs of any function are found in its program (jaxpr): every maximum of a floating-point array and the constant
    0, also inside of functions under `jax.jit`, `jax.checkpoint`, `jax.lax.scan` and `jax.lax.cond`. This includes
    `jax.nn.relu`, `jax.nn.relu6`, `jnp.maximum(x, 0)` and `jnp.clip(x, 0)`, and maxima that are no activation. Other
    ways to write a ReLU, such as `jnp.where(x > 0, x, 0)` or a ReLU inside of a `jax.custom_vjp`, and other
    activations, such as GELU, keep their gradient.

    Args:
      function: a function of trees of arrays, such as `scores(variables, images)`.

    Returns:
      The function. It raises a `ValueError` if there is no ReLU in `function`.

    Reference: Springenberg et al. 2015, "Striving for simplicity: the all convolutional net", section on deconvolution.
    """

    def run(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        interpreter = _Interpreter()
        outputs = interpreter.evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        if not interpreter.num_relus:
            raise ValueError("the function has no ReLU, `max(x, 0)`, so there is no guided backpropagation of it.")
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return run


@jax.custom_vjp
def _guided_relu(x: jax.Array) -> jax.Array:
    return jnp.maximum(x, jnp.zeros((), x.dtype))


def _backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (jnp.where((x > 0) & (gradient > 0), gradient, jnp.zeros((), x.dtype)),)


_guided_relu.defvjp(lambda x: (_guided_relu(x), x), _backward)


class _Interpreter:
    """Evaluates programs with guided ReLUs, and counts the ReLUs."""

    def __init__(self) -> None:
        self.num_relus = 0

    def evaluate(
        self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], is_zero: Sequence[bool] = ()
    ) -> list[jax.Array]:
        """Returns the outputs of a program for `args`; `is_zero` says which of them are known to be 0."""
        values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args)))
        zeros = {variable for variable, zero in zip(jaxpr.invars, is_zero) if zero}

        def value(atom: Any) -> Any:
            return atom.val if isinstance(atom, jex.Literal) else values[atom]

        def is_known_zero(atom: Any) -> bool:
            if isinstance(atom, jex.Literal):
                return bool(jnp.ndim(atom.val) == 0 and atom.val == 0)
            return atom in zeros

        for equation in jaxpr.eqns:
            flags = [is_known_zero(atom) for atom in equation.invars]
            outputs = self._outputs(equation, [value(atom) for atom in equation.invars], flags)
            values.update(zip(equation.outvars, outputs))
            if equation.primitive.name in KEEP_ZERO and flags[0]:
                zeros.add(equation.outvars[0])
        return [value(atom) for atom in jaxpr.outvars]

    def _outputs(self, equation: Any, args: list[Any], is_zero: list[bool]) -> Sequence[Any]:
        name, params = equation.primitive.name, equation.params
        if name == "max" and any(is_zero) and jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.inexact):
            self.num_relus += 1
            x = args[1] if is_zero[0] else args[0]
            return [_guided_relu(jnp.broadcast_to(x, equation.outvars[0].aval.shape))]
        if name in ("jit", "pjit"):  # the names depend on the version of JAX
            return self.evaluate(params["jaxpr"].jaxpr, params["jaxpr"].consts, args, is_zero)
        if name in ("remat2", "checkpoint"):
            return self.evaluate(params["jaxpr"], (), args, is_zero)
        if name == "custom_jvp_call":
            count, inner = self.num_relus, params["call_jaxpr"]
            outputs = self.evaluate(inner.jaxpr, inner.consts, args, is_zero)
            if self.num_relus > count:  # otherwise, the custom derivative is kept
                return outputs
        if name == "scan":
            params = {**params, "jaxpr": self._guided_program(params["jaxpr"])}
        if name == "cond":
            params = {**params, "branches": tuple(map(self._guided_program, params["branches"]))}
        params = equation.primitive.get_bind_params(params)
        functions, params = params if isinstance(params, tuple) else ((), params)  # also by version
        outputs = equation.primitive.bind(*functions, *args, **params)
        return outputs if equation.primitive.multiple_results else [outputs]

    def _guided_program(self, closed: Any) -> Any:
        return jax.make_jaxpr(lambda *args: self.evaluate(closed.jaxpr, closed.consts, args))(*closed.in_avals)
