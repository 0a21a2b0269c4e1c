"""Scale-time transformations and changes of scheduler (eq. 6-8, eq. 14).

A scale-time solver is a combinator: `under` wraps the field by eq. 7 and rescales in
and out, and the trace folds it into three arrays over the original field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax import conditioning, kinds, scalars
from bns_jax.ns import NSParams, check_shapes, from_updates
from bns_jax.schedulers import Scheduler, check_scheduler
from bns_jax.typing import Array, Sample, Solver, Time, VelocityField
from bns_jax.velocity import between_ends, divide, time_like


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
    """t_r = r, s_r = 1."""

    def same(r: Time) -> Array:
        return r if isinstance(r, jax.Array) else np.asarray(r, np.float64)

    def one(r: Time) -> Array:
        return same(r) * 0.0 + 1.0

    def zero(r: Time) -> Array:
        return same(r) * 0.0

    return ScaleTime(same, one, one, zero)


def between(source: Scheduler, target: Scheduler) -> ScaleTime:
    """The scale-time transformation that changes `source` to `target` (eq. 8).

    Where the target is noisier than the source ever gets (VP's alpha_0 is not 0),
    t_r stays at 0. Where it is the source that gets noisier, t_0 is the time at which
    it has the noise of the target's start. t_1 = 1 always holds.

    Of eq. 8's forms these are the ones that stay finite at the ends, where snr is 0
    or infinite: s is the ratio of the vectors (alpha, sigma), and with
    L = sigma alpha' - alpha sigma' the derivative of t is (L_bar / L) / s^2. Where no
    noise is left the latter is 0 / 0 if sigma falls other than linearly: there
    both derivatives have their limits, which may be 0 or infinite.
    """
    check_scheduler(source)
    check_scheduler(target)
    lowest = float(source.log_snr(0.0))

    def through_snr(r: Time) -> Array:
        log_snr = target.log_snr(r).clip(lowest)
        return source.log_snr_inverse(log_snr).clip(0.0, 1.0)

    # Autodiff of the composition is 0 / 0 where log-SNR is infinite.
    differentiable = jax.custom_jvp(through_snr)

    @differentiable.defjvp
    def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        return differentiable(*primals), d_t(*primals) * tangents[0]

    def t(r: Time) -> Array:
        return differentiable(r) if isinstance(r, jax.Array) else through_snr(r)

    def s(r: Time) -> Array:
        alpha, sigma = source.alpha(t(r)), source.sigma(t(r))
        aligned = alpha * target.alpha(r) + sigma * target.sigma(r)
        return aligned / (alpha**2 + sigma**2)

    def rate_t(r: Time) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return _wronskian(target, r) / _wronskian(source, t(r)) / s(r) ** 2

    def rate_s(r: Time, d_t: Callable[[Time], Array]) -> Array:
        alpha, sigma = source.alpha(t(r)), source.sigma(t(r))
        with np.errstate(invalid="ignore"):
            moved = alpha * target.d_alpha(r) + sigma * target.d_sigma(r)
            along = alpha * source.d_alpha(t(r)) + sigma * source.d_sigma(t(r))
            return (moved - s(r) * d_t(r) * along) / (alpha**2 + sigma**2)

    rate_t_at_end = _at_end(rate_t)
    rate_s_at_end = _at_end(lambda r: rate_s(r, rate_t))

    def d_t(r: Time) -> Array:
        xp = jnp if isinstance(r, jax.Array) else np
        rate = xp.where(t(r) >= 1, rate_t_at_end, rate_t(r))
        return xp.where(target.log_snr(r) < lowest, 0.0, rate)

    def d_s(r: Time) -> Array:
        xp = jnp if isinstance(r, jax.Array) else np
        return xp.where(t(r) >= 1, rate_s_at_end, rate_s(r, d_t))

    return ScaleTime(t, s, d_t, d_s)


def _at_end(rate: Callable[[Time], Array]) -> float:
    """A rate at r = 1, or its limit, where it changes as a power of 1 - r."""
    end = float(rate(1.0))
    if not np.isnan(end):
        return end
    for step in _STEPS:
        far, near = (float(rate(1.0 - distance)) for distance in (2 * step, step))
        if np.isfinite(near):
            break
    if abs(near) < max(0.99 * abs(far), _ROUNDING):
        return 0.0
    return (
        2 * near - far if abs(near) < 1.01 * abs(far) else float(np.sign(near) * np.inf)
    )


_ROUNDING = 1e-6
_STEPS = (1e-7, 1e-5, 1e-3, 1e-2, 0.05)
"""Extrapolated over, to an error of their square; from all too near t rounds to 1."""


def _wronskian(scheduler: Scheduler, t: Time) -> Array:
    """L = sigma alpha' - alpha sigma'."""
    alpha, sigma = scheduler.alpha(t), scheduler.sigma(t)
    return sigma * scheduler.d_alpha(t) - alpha * scheduler.d_sigma(t)


@dataclasses.dataclass(frozen=True)
class _Noisier(Scheduler):
    """alpha_t and sigma_0 sigma_t of a base scheduler (eq. 14)."""

    base: Scheduler
    sigma_0: float

    def alpha(self, t: Time) -> Array:
        return self.base.alpha(t)

    def sigma(self, t: Time) -> Array:
        return self.sigma_0 * self.base.sigma(t)

    def d_alpha(self, t: Time) -> Array:
        return self.base.d_alpha(t)

    def d_sigma(self, t: Time) -> Array:
        return self.sigma_0 * self.base.d_sigma(t)

    def log_snr_inverse(self, log_snr: Time) -> Array:
        return self.base.log_snr_inverse(log_snr + float(np.log(self.sigma_0)))


def precondition(scheduler: Scheduler, sigma_0: float) -> ScaleTime:
    """Eq. 14: the change to (alpha_t, sigma_0 sigma_t), a wider source.

    Raises:
      ValueError: unless sigma_0 is positive and finite.
    """
    check_scheduler(scheduler)
    return between(scheduler, _Noisier(scheduler, scalars.positive("sigma_0", sigma_0)))


def transform(vf: VelocityField, scale_time: ScaleTime) -> VelocityField:
    """The field that generates x_bar (eq. 7)."""
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RescheduledVelocity:
    """A model's velocity on the path of another scheduler.

    The same field as `transform(vf, between(vf.scheduler, target))`, but formed from
    the model's prediction: it is finite where the original velocity diverges, as that
    of an eps-prediction under VP does at t = 1.

    Attributes:
      vf: a field with `scheduler` and `ends`, such as `velocity.from_epsilon` makes.
      target: the scheduler to move to.
    """

    vf: Any
    target: Scheduler = dataclasses.field(metadata={"static": True})

    def check_args(self, args: tuple[Any, ...]) -> None:
        """Lets the field check the conditioning; see `conditioning.check`."""
        conditioning.check(self.vf, args)

    def __call__(self, r: Time, x: Sample, *args: Any) -> Sample:
        """The velocity of x_bar at r, like x."""
        r = time_like(r, x)
        change = between(self.vf.scheduler, self.target)
        ends = self.vf.ends(change.t(r), divide(x, change.s(r)), *args)
        velocity = between_ends(ends, self.target, r)
        return jax.tree.map(lambda u, x: u.astype(x.dtype), velocity, x)
