"""Derivatives of the sampler: in a loop that stores little, or without one.

XLA's CPU backend brings convolutions into the form of its fast kernels outside loops
only. That of a gradient has a reversed kernel with its channels swapped, and takes up
to a hundred times as long inside a loop.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from bns_jax.traced_field import TracedField
from bns_jax.typing import Array, Sample, wider

MOST_SUMS = 8
"""Evaluations up to which n^2 sums for derivatives compile in about a loop's time."""

_in_a_loop = ContextVar("_in_a_loop", default=False)


@contextlib.contextmanager
def inside_a_loop() -> Iterator[None]:
    """While a loop around the sampler is traced, in which unrolling gains nothing.

    Yields:
      Nothing.
    """
    token = _in_a_loop.set(True)
    try:
        yield
    finally:
        _in_a_loop.reset(token)


def unrolling_helps() -> bool:
    """Whether some fields are better differentiated without a loop.

    Those with convolutions, always: on two cores, with 96 features, the first gradient
    earns back what it takes to compile, as `python -m experiments.tools.benchmarks`
    prints. Those that compute little, up to `MOST_SUMS` evaluations: the sums of a loop
    are most of their time. What the field computes on the way is stored, whatever
    `jax.checkpoint` asks for: the compiler finds it again in the forward pass.

    Returns:
      True on CPU, unless a loop around the sampler is traced.
    """
    return jax.default_backend() == "cpu" and not _in_a_loop.get()


def differentiate_as(
    other: Callable[..., Any], function: Callable[..., Any]
) -> Callable[..., Any]:
    """`function`, whose derivatives are taken through `other`, which computes the same.

    Args:
      other: closes over no tracer.
      function: likewise, of the same pytrees of arrays.

    Returns:
      A function of the same arguments.
    """
    call = jax.custom_jvp(function)

    def differentiate(primals: Any, tangents: Any) -> tuple[Any, Any]:
        leaves, tree = jax.tree.flatten(primals)
        moves = {
            i: dx
            for i, dx in enumerate(jax.tree.leaves(tangents))
            if not isinstance(dx, SymbolicZero)
        }

        def at(moved: dict[int, Any]) -> Any:
            all_leaves = [moved.get(i, leaf) for i, leaf in enumerate(leaves)]
            return other(*jax.tree.unflatten(tree, all_leaves))

        return jax.jvp(at, ({i: leaves[i] for i in moves},), (moves,))

    call.defjvp(differentiate, symbolic_zeros=True)
    return call


# Its transposes are matrix products too: sums of products are far slower, and copy Y.
_product = functools.partial(jnp.tensordot, precision="highest")


def future_iterates(
    params: Any,
    field: TracedField,
    x0: Sample,
    keep: Callable[[Sample, Sample], Any],
    unroll: int = 1,
) -> tuple[Sample, Any]:
    """Eq. 11 as a loop whose derivatives store three iterates per evaluation.

    The carry holds the future iterates Y, from Y = a (x) x_0 on; call j adds its
    column, Y += b_j (x) u_j, and x_{j+1} = Y[j] is complete by then. The backward pass
    stores x_j for each call; row i of b times stored velocities would take O(n^2).

    Args:
      params: the solver, of floating-point dtypes.
      field: the velocity field.
      x0: noise; Y is made from it, never from fresh zeros, for its sharding.
      keep: says what is wanted of x_{j+1} and u_j.
      unroll: steps of the loop that are compiled one after another.

    Returns:
      x_n, and what `keep` returned of all calls, stacked.
    """
    number = jnp.arange(len(params.a))

    # Inside a loop the passes share nothing; where it is unrolled, they must not.
    @functools.partial(jax.checkpoint, prevent_cse=unroll > 1)
    def call(arrays: list[Any], t_j: Array, b_j: Array, x: Sample) -> Any:
        u = field.evaluate(arrays, t_j, x)
        return _outer(b_j, u, x), u

    def step(carry: Any, inputs: Any) -> Any:
        Y, x = carry
        j, t_j, b_j = inputs
        b_j = jnp.where(number >= j, b_j, jnp.zeros_like(b_j))
        column, u = call(field.arrays, t_j, b_j, x)
        Y = jax.tree.map(jnp.add, Y, column)
        x = jax.tree.map(lambda y, x: _row(y, j).astype(x.dtype), Y, x)
        return (Y, x), keep(x, u)

    calls = number, params.times, params.b.T
    (_, x), kept = lax.scan(step, (_outer(params.a, x0, x0), x0), calls, unroll=unroll)
    return x, kept


def _outer(coefficients: Array, u: Sample, x: Sample) -> Sample:
    """The outer product with u, in the wider of the coefficients' dtype and x's."""

    def outer(u: Array, x: Array) -> Array:
        wide = wider(coefficients.dtype, x.dtype)
        return _product(coefficients.astype(wide), u.astype(wide), 0)

    return jax.tree.map(outer, u, x)


@jax.custom_jvp
def _row(y: Array, j: Array) -> Array:
    return y[j]


@_row.defjvp
def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (y, j), (d_y, _) = primals, tangents
    return y[j], _product((jnp.arange(len(y)) == j).astype(y.dtype), d_y, 1)
