"""The shapes and function types that the whole library speaks of, named once."""

from __future__ import annotations

import functools
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray
"""An array of either namespace; NumPy outside a trace, JAX under one."""

Time: TypeAlias = float | Array
"""Time in [0, 1], from noise (0) to data (1): a scalar unless said otherwise."""

Sample: TypeAlias = Any
"""A pytree of floating-point arrays: one sample, or a batch of them."""


class VelocityField(Protocol):
    """u_t(x), the right-hand side of the sampling ODE (eq. 1).

    A field of a real network is best given as
    `jax.tree_util.Partial(apply, weights)`: its weights then travel through jitted
    functions as arguments, and new weights compile nothing. A field may carry a method
    `check_args(args)` that refuses a conditioning; see `conditioning.check`.
    """

    def __call__(self, t: Time, x: Sample, /, *args: Any) -> Sample:
        """Evaluates the field.

        Args:
          t: scalar time in [0, 1], the same for a whole batch.
          x: a pytree of arrays.
          *args: conditioning, handed on unchanged.

        Returns:
          The velocity: the same tree, shapes and dtypes as x.
        """
        ...


class Solver(Protocol):
    """A numerical algorithm that takes x_0 to an approximation of x(1)."""

    def __call__(self, vf: VelocityField, x0: Sample, /) -> Sample:
        """Runs the algorithm, calling `vf` as vf(t, x)."""
        ...


class Progress(Protocol):
    """Called as long work advances; the library itself prints nothing."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Reports that `done` of `total` units are finished.

        Args:
          done: units so far.
          total: units in all.
          note: what else to say.
        """
        ...


def is_eight_bit(dtype: Any) -> bool:
    """Whether numbers are floats of 8 bits or less, with which JAX mixes no others.

    Args:
      dtype: of an array.

    Returns:
      True for the kinds of float8, float6 and float4.
    """
    return bool(jnp.issubdtype(dtype, jnp.floating)) and np.dtype(dtype).itemsize < 2


def wider(*dtypes: Any) -> Any:
    """The dtype that all of them promote to, whatever the user's promotion rules.

    Under jax_numpy_dtype_promotion="strict" JAX names no common dtype of two.

    Args:
      *dtypes: at least one.

    Returns:
      Their common dtype, as under JAX's standard promotion.
    """
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes)
