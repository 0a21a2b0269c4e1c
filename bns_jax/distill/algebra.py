"""Small algebra: the few hundred numbers of a solver, in float64 where there is any.

The velocities along a trajectory are nearly collinear, so that their Gram matrices have
condition numbers of 1e7 to 1e14: beyond float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bns_jax.typing import wider


def in_double(function: Callable[..., Any], double: bool) -> Callable[..., Any]:
    """The function computed in float64, whatever jax_enable_x64 says.

    Arguments are cast on the way in, results to the arguments' dtype on the way out.

    Args:
      function: of pytrees of arrays to one.
      double: whether to; TPUs have float32 only.
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
