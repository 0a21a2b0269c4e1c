"""The true trajectory between its saved points: a cubic spline, smooth in the time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bns_jax.typing import Array, Sample, wider


def interpolate(times: Array, path: Sample, t: Array) -> Sample:
    """The path at any times, by the not-a-knot cubic spline through its points.

    Differentiable in t, where the derivative is the spline's.

    Args:
      times: (K,), increasing, K >= 4.
      path: a pytree of arrays with leading axis K.
      t: (m,), between the first and the last of `times`.

    Returns:
      Like `path` in dtypes, with leading axis m.

    Raises:
      ValueError: if there are fewer than 4 times.
    """
    if len(times) < 4:
        raise ValueError(
            f"a cubic spline needs at least 4 points of the path, got {len(times)}"
        )
    weights = _weights(times, t)

    def combine(leaf: Array) -> jax.Array:
        wide = wider(leaf.dtype, jnp.float32)
        points = jnp.asarray(leaf, wide)
        mixed = jnp.tensordot(
            weights.astype(wide), points, 1, precision=lax.Precision.HIGHEST
        )
        return mixed.astype(leaf.dtype)

    return jax.tree.map(combine, path)


def check_covers(times: Array) -> None:
    """Checks concrete times: a spline beyond its points is no trajectory.

    Args:
      times: (K,), of the points.

    Raises:
      ValueError: if they do not increase from 0 to 1.
    """
    if isinstance(times, jax.core.Tracer):
        return
    if np.any(np.diff(times) <= 0) or times[0] > 0 or times[-1] < 1:
        raise ValueError(
            f"the times of the path must increase from 0 to 1, got {np.asarray(times)}"
        )


def _weights(times: Array, t: Array) -> Array:
    """(m, K): how much each point has in the spline at each t, in Hermite's form."""
    slopes = jnp.asarray(_slopes(times), t.dtype)
    times, points = jnp.asarray(times, t.dtype), jnp.eye(len(times), dtype=t.dtype)
    k = jnp.clip(jnp.searchsorted(times, t, side="right") - 1, 0, len(times) - 2)
    h = (times[k + 1] - times[k])[:, None]
    p = (t - times[k])[:, None] / h
    q = 1.0 - p
    values = q**2 * (1.0 + 2.0 * p) * points[k] + p**2 * (1.0 + 2.0 * q) * points[k + 1]
    return values + h * p * q * (q * slopes[k] - p * slopes[k + 1])


def _slopes(times: Array) -> Array:
    """(K, K): the matrix from the points to the derivatives of the spline there.

    With slopes m and divided differences d, the second derivative of interval k is
    (6 d - 4 m_k - 2 m_{k+1}) / h at its start and (2 m_k + 4 m_{k+1} - 6 d) / h at its
    end, and the third is proportional to (m_k + m_{k+1} - 2 d) / h^2. The second is
    continuous at all inner points, the third at the outermost of these.
    """
    xp = jnp if isinstance(times, jax.Array) else np
    h = xp.diff(times)[:, None]
    points = xp.eye(len(times), dtype=h.dtype)
    m, d = points, xp.diff(points, axis=0) / h
    second = m[:-2] / h[:-1] + 2 * m[1:-1] * (1 / h[:-1] + 1 / h[1:]) + m[2:] / h[1:]
    second_d = 3 * (d[:-1] / h[:-1] + d[1:] / h[1:])
    third, third_d = (m[:-1] + m[1:]) / h**2, 2 * d / h**2
    outer, inner = np.array([0, -1]), np.array([1, -2])
    left = xp.concatenate([second, third[outer] - third[inner]])
    right = xp.concatenate([second_d, third_d[outer] - third_d[inner]])
    return xp.linalg.solve(left, right)
