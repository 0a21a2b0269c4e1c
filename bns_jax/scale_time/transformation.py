"""Scale-time transformations of a field, and of a solver (eq. 6, eq. 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax import kinds
from bns_jax.ns import NSParams, check_shapes, from_updates
from bns_jax.typing import Array, Sample, Solver, Time, VelocityField


class ScaleTime(NamedTuple):
    """x_bar(r) = s_r x(t_r) (eq. 6), as four functions of r in [0, 1].

    Attributes:
      t: the time t_r, non-decreasing.
      s: the scale s_r > 0.
      d_t: the derivative of t_r.
      d_s: the derivative of s_r.
    """

    t: Callable[[Time], Array]
    s: Callable[[Time], Array]
    d_t: Callable[[Time], Array]
    d_s: Callable[[Time], Array]


def identity() -> ScaleTime:
    """The change that changes nothing, t_r = r and s_r = 1.

    Returns:
      The transformation.
    """

    def same(r: Time) -> Array:
        return r if isinstance(r, jax.Array) else np.asarray(r, np.float64)

    def one(r: Time) -> Array:
        return same(r) * 0.0 + 1.0

    def zero(r: Time) -> Array:
        return same(r) * 0.0

    return ScaleTime(same, one, one, zero)


def transform(vf: VelocityField, scale_time: ScaleTime) -> VelocityField:
    """The field that generates x_bar (eq. 7).

    Args:
      vf: the field of x.
      scale_time: the transformation.

    Returns:
      The field u_bar(r, x_bar, *args).
    """
    _check_change(scale_time)

    def transformed(r: Time, x: Sample, /, *args: Any) -> Sample:
        t, s, d_t, d_s = (f(r) for f in scale_time)
        u = vf(t, jax.tree.map(lambda x: x / s, x), *args)
        return jax.tree.map(lambda x, u: d_s / s * x + d_t * s * u, x, u)

    return transformed


def under(
    algorithm: Solver, scale_time: ScaleTime, start: Time = 0.0, end: Time = 1.0
) -> Solver:
    """The algorithm run on x_bar, as an algorithm on x (eq. 18).

    Args:
      algorithm: a solver from r = start to r = end.
      scale_time: the transformation it runs under.
      start: where its grid begins.
      end: where its grid ends.

    Returns:
      A solver of the original field, which `from_solver` traces like any other.

    Raises:
      ValueError: if one is no function, the other no scale-time change.
    """
    kinds.check_function("algorithm", algorithm, "algorithm(vf, x0)")
    _check_change(scale_time)

    def transformed(vf: VelocityField, x0: Sample) -> Sample:
        x_bar = jax.tree.map(lambda x: x * scale_time.s(start), x0)
        x_bar = algorithm(transform(vf, scale_time), x_bar)
        return jax.tree.map(lambda x: x / scale_time.s(end), x_bar)

    return transformed


def _check_change(scale_time: Any) -> None:
    expected = "a scale-time change, such as scale_time.between(source, target)"
    kinds.check(expected, scale_time, ScaleTime)


def fold(params: NSParams, scale_time: ScaleTime) -> NSParams:
    """A solver of the transformed field, as a solver of the original one.

    With x_bar_i = s_i x_i and eq. 7 a row of `params` reads

        s_{i+1} x_{i+1} = a_i s_0 x_0 + sum_j b_ij (s_j' x_j + t_j' s_j u_j),

    an update rule over past points and velocities (eq. 48, whose coefficients eq. 51
    misprints), and Prop. 3.1 does the rest. `from_solver(under(...))` gives the same by
    running the solver; this is a few matrix operations, and fast to differentiate.

    Args:
      params: the solver of the field of x_bar, n evaluations.
      scale_time: the transformation.

    Returns:
      The solver, n evaluations too, in the namespace of params.

    Raises:
      ValueError: if the change is singular at one of the times; not under a trace.
    """
    check_shapes(params)
    _check_change(scale_time)
    r, a, b = params
    t, s, d_t, d_s = (_at_each(f, r) for f in scale_time)
    s_end = _at_each(scale_time.s, _like(r, np.ones(1)))
    xp = jnp if isinstance(s, jax.Array) else np
    s_next = xp.concatenate([s[1:], s_end])[:, None]
    first = _like(s, np.eye(1, len(s)))
    with np.errstate(invalid="ignore"):
        c = (b * d_s[None] + a[:, None] * s[0] * first) / s_next
        d = b * (d_t * s)[None] / s_next
    if not isinstance(c, jax.Array) and not np.all(np.isfinite(np.stack([c, d]))):
        raise ValueError(
            "the coefficients of a folded solver must be finite, and are not: the "
            f"scale-time change is singular at one of the times {np.asarray(r)}"
        )
    # Times that coincide may come out in either order, by a unit in the last place.
    return from_updates(xp.sort(t), c, d)


def _at_each(function: Callable[[Time], Array], r: Array) -> Array:
    """A function of one time, at each of several."""
    if isinstance(r, jax.Array):
        return jax.vmap(function)(r)
    return np.array([function(r_i) for r_i in r])


def _like(x: Array, values: np.ndarray) -> Array:
    """The values in the namespace and dtype of x."""
    return jnp.asarray(values, x.dtype) if isinstance(x, jax.Array) else values
