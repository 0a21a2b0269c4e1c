"""Eq. 11 as a scan, which JAX differentiates as it stands."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bns_jax.ns.params import NSParams
from bns_jax.traced_field import TracedField
from bns_jax.typing import Array, Sample, wider

# Its transposes are matrix products too: sums of products are far slower, and copy Y.
_product = functools.partial(jnp.tensordot, precision="highest")


def iterates(
    params: NSParams,
    field: TracedField,
    x0: Sample,
    keep: Callable[[Sample, Sample], Any],
    unroll: int = 1,
) -> tuple[Sample, Any]:
    """x_n, and what `keep(x_{j+1}, u_j)` returns of all calls, stacked.

    The carry holds the future iterates Y, from Y = a (x) x_0 on; call j adds its
    column, Y += b_j (x) u_j, and x_{j+1} = Y[j] is complete by then. The backward pass
    stores x_j for each call; row i of b times stored velocities would take O(n^2).

    Args:
      params: the solver, of floating-point dtypes.
      field: the velocity field.
      x0: noise; Y is made from it, never from fresh zeros, for its sharding.
      keep: says what is wanted of each call.
      unroll: steps of the loop that are compiled one after another.
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
