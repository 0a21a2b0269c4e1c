"""Small algebra: the few hundred numbers of a solver, in float64 where there is any.

The velocities along a trajectory are nearly collinear, so that their Gram matrices have
condition numbers of 1e7 to 1e14: beyond float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bns_jax.typing import wider

_ROUNDING = 64.0


def jacobian(function: Callable[[Any], Any], theta: Any) -> jax.Array:
    """The derivatives of a family, with those that are rounding errors set to 0.

    A number that a constraint projects away has a derivative of 1e-16, not of 0, and
    whoever scales it to 1 goes 1e16 far along it.

    Args:
      function: of theta to a pytree of arrays.
      theta: a pytree of p numbers.

    Returns:
      (m, p), all arrays that the function returns as one vector.
    """
    point, unravel = ravel_pytree(theta)
    J = jax.jacfwd(lambda point: ravel_pytree(function(unravel(point)))[0])(point)
    size = jnp.max(jnp.abs(J), axis=0)
    rounding = _ROUNDING * jnp.finfo(J.dtype).eps * jnp.max(size)
    return jnp.where((size > rounding)[None], J, 0.0)


def in_double(function: Callable[..., Any], double: bool) -> Callable[..., Any]:
    """The function computed in float64, whatever jax_enable_x64 says.

    Arguments are cast on the way in, results to the arguments' dtype on the way out.

    Args:
      function: of pytrees of arrays to one.
      double: whether to; TPUs have float32 only.

    Returns:
      A function of the same arguments.
    """

    def cast(dtype: Any) -> Callable[[Any], Any]:
        return lambda tree: jax.tree.map(lambda leaf: leaf.astype(dtype), tree)

    def computed(*args: Any) -> Any:
        if not double:
            with jax.default_matmul_precision("highest"):
                return function(*args)
        dtype = wider(*(leaf.dtype for leaf in jax.tree.leaves(args)))
        with jax.enable_x64(True):
            return cast(dtype)(function(*cast(jnp.float64)(args)))

    return computed


def in_two(x: jax.Array) -> jax.Array:
    """Numbers as the sum of what float32 holds of them and the rest.

    Args:
      x: of any shape, in float32 or float64.

    Returns:
      (2, ...): as float32 they keep 48 bits.
    """
    first = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=23)
    return jnp.stack([first, x - first])
