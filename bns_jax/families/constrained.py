"""Families whose every member keeps a guarantee: linear constraints on its numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax.families.base import Family
from bns_jax.ns import NSParams

_APART = 1e-3
"""Times at the start of a family that are closer than this count as one."""


def constrained(family: Family, degree: int) -> Family:
    """`family`, projected so that every iterate is exact for polynomial velocities.

    Where the velocity along the trajectory is a polynomial in t of degree < d_i, each
    x_{i+1} is exactly the sample at its own time t_{i+1}, stages of a step included,
    and t_n = 1: a_i = 1, and

        sum_j b_ij p(t_j) = integral of p from t_0 to t_{i+1}

    for all p of degree < d_i. Each row of b changes by the least that achieves it, in
    the sum of squares. Degree 1 is consistency. On a smooth field that is scaled by a
    small h, which is one interval of length h, the error of any member is O(h^2) at
    degree 1 and O(h^3) from degree 2 on.

    Row i keeps d_i = min(degree, number of distinct times among t_0 .. t_i) conditions,
    as many as it has room for. Which times are distinct, by more than 0.001, is read
    from the start of the family: a Heun step calls the field twice at one time, and
    were one condition more to appear as soon as training moves the two apart, it would
    ask for weights as large as their distance is small. If training makes distinct
    times meet, the conditions that no weights can fulfil are dropped.

    A solver with a_i other than 1, such as DDIM, is changed much. Constrain last:
    `constrained(preconditioned(...), degree)` keeps the guarantee, for the original
    field; preconditioning afterwards loses it in general.

    Args:
      family: whose members are projected; its theta is kept.
      degree: from 1 to the number of evaluations.

    Returns:
      The family of the same theta, projected.

    Raises:
      ValueError: if it is not.
    """
    start = family.to_params(family.theta)
    nfe = len(start.a)
    if not 1 <= degree <= nfe:
        raise ValueError(f"degree must lie in 1 .. nfe = {nfe}, got {degree}")
    times = np.asarray(start.times)
    distinct = 1 + np.cumsum(np.diff(times, prepend=times[0]) > _APART)
    conditions = tuple(np.minimum(degree, distinct).tolist())
    return Family(family.theta, _Projected(family.to_params, conditions))


@dataclasses.dataclass(frozen=True)
class _Projected:
    """The members of a family, made exact for polynomials of these degrees by row."""

    __name__ = "to_params"
    to_params: Callable[[Any], NSParams]
    conditions: tuple[int, ...]

    def __call__(self, theta: Any) -> NSParams:
        times, a, b = map(jnp.asarray, self.to_params(theta))
        projected = _project(times, b, np.asarray(self.conditions))
        return NSParams(times, jnp.ones_like(a), projected)


def _project(times: jax.Array, b: jax.Array, conditions: np.ndarray) -> jax.Array:
    """The least change of b by which row i integrates the first polynomials exactly.

    The rows are handled at once. In row i the polynomials p_0, p_1 .. are orthonormal
    on its times t_0 .. t_i, by Gram-Schmidt from t p_{k-1}, so each condition moves b
    along its own direction. One that is no new direction, for want of distinct times,
    is 0 from there on. Next to its values at the times each polynomial carries those
    at Gauss-Legendre points, which integrate it.
    """
    n = len(times)
    dtype = jnp.result_type(b)
    lower = jnp.tril(jnp.ones((n, n), dtype))
    nodes, weights = np.polynomial.legendre.leggauss((max(conditions) + 1) // 2)
    length = (jnp.append(times[1:], 1.0) - times[0])[:, None]
    inside = times[0] + length * jnp.asarray(1 + nodes, dtype)[None] / 2
    t = jnp.concatenate([jnp.broadcast_to(times, (n, n)), inside], axis=1)

    def dot(p: jax.Array, q: jax.Array) -> jax.Array:
        return jnp.sum(lower * p[:, :n] * q[:, :n], axis=1, keepdims=True)

    def integral(p: jax.Array) -> jax.Array:
        mean = jnp.asarray(weights, dtype)[None] * p[:, n:] / 2
        return length * jnp.sum(mean, axis=1, keepdims=True)

    basis: list[jax.Array] = []
    p = jnp.ones_like(t)
    for k in range(max(conditions)):
        for q in basis:
            p = p - dot(p, q) * q
        size = dot(p, p)
        is_new = (size > jnp.finfo(dtype).eps) & (conditions > k)[:, None]
        p = jnp.where(is_new, p / jnp.sqrt(jnp.where(is_new, size, 1.0)), 0.0)
        b = b + (integral(p) - dot(p, b)) * lower * p[:, :n]
        basis.append(p)
        p = t * p
    return b
