"""All non-stationary solvers: theta is the solver itself (section 3.2)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from bns_jax.families.base import Family
from bns_jax.ns import NSParams, validate
from bns_jax.typing import Array, wider


class BNSTheta(NamedTuple):
    """The free numbers of a bespoke non-stationary solver.

    Attributes:
      times: (n - 1,), t_1 .. t_{n-1}, where t_0 is pinned; (n,) where it is free.
      a: (n,).
      b: (n (n + 1) / 2,), the lower triangle row by row.
    """

    times: Array
    a: Array
    b: Array


def bns(init: NSParams, *, free_start: bool = False) -> Family:
    """All non-stationary solvers, starting from `init` (section 3.2).

    theta is the solver itself: a and b as they are, times clipped and sorted, which
    keeps the start, repeated times included. These are n (n + 5) / 2 - 1 numbers, and
    one more with `free_start`; JAX arrays, float32 unless x64 is on.

    Args:
      init: the solver to start from; its number of evaluations is kept.
      free_start: whether t_0 is learnable too, and times move in [0, 1]. Left out, as
        in the paper, t_0 stays that of `init` and the others move in [t_0, 1].

    Returns:
      The family; theta is a `BNSTheta`.

    Raises:
      ValueError: if `init` is no valid solver (see `ns.validate`).
    """
    validate(init)
    pinned = () if free_start else (float(init.times[0]),)
    free, lower = init.times[len(pinned) :], np.tril_indices(len(init.a))
    theta = BNSTheta(*map(_floating, (free, init.a, np.asarray(init.b)[lower])))
    return Family(theta, _Free(pinned))


@dataclasses.dataclass(frozen=True)
class _Free:
    """The solver that theta is.

    Attributes:
      pinned: t_0, where it does not move.
    """

    __name__ = "to_params"
    pinned: tuple[float, ...]

    def __call__(self, theta: BNSTheta) -> NSParams:
        n, earliest = len(theta.a), sum(self.pinned)
        first = jnp.asarray(self.pinned, theta.times.dtype)
        times = jnp.sort(jnp.clip(theta.times, earliest, 1.0))
        b = jnp.zeros((n, n), theta.b.dtype).at[np.tril_indices(n)].set(theta.b)
        return NSParams(jnp.concatenate([first, times]), theta.a, b)


def _floating(leaf: Array) -> Array:
    """Integers, which have no gradient, and floats of 16 bits as floats of more."""
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf.astype(float)
    return leaf.astype(wider(leaf.dtype, jnp.float32))
