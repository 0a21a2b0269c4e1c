"""What the three arrays of a solver show: the tests behind Figure 3.

Any consistent method is exact on straight lines. Under a change of scheduler
x(t) = s_t x_bar(r_t) the lines of x_bar are curves s_t (c_0 + c_1 r_t) of x, so the
curves that a solver is exact on tell the change that it was made under:

    generic        none: the lines c_0 + c_1 t;
    exponential    the change to cond-OT, whose lines are the conditional paths
                   alpha_t c_0 + sigma_t c_1, on which every prediction is constant;
    scale-time     these or another of `changes`: a list, because there are curves for
                   any numbers to be exact on.

What it carries from one evaluation to the next tells Runge-Kutta from multistep.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bns_jax import grids, schedulers
from bns_jax.ns import NSParams, as_solver, from_solver
from bns_jax.scale_time import ScaleTime, between, identity, under
from bns_jax.schedulers import Scheduler
from bns_jax.typing import Array, Time

# Coefficients are exact to about 1e-14, and those of other methods differ by 1e-3.
_EXACT = 1e-9


class Shown(NamedTuple):
    """What the numbers of a solver show.

    Attributes:
      straight: the changes of `changes` on whose straight lines it is exact.
      memory: the most vectors that it carries from one evaluation to the next.
      stages: the most evaluations between two times at which it carries just one.
      nfe: evaluations in all.
    """

    straight: tuple[str, ...]
    memory: int
    stages: int
    nfe: int

    @property
    def generic(self) -> bool:
        """Consistent without knowing the path."""
        return "identity" in self.straight

    @property
    def exponential(self) -> bool:
        """Exact where the prediction of noise, and so that of data, is constant."""
        return "cond_ot" in self.straight

    @property
    def scale_time(self) -> bool:
        """Consistent under some change of scheduler."""
        return bool(self.straight)

    @property
    def one_step(self) -> bool:
        """It starts afresh from one vector, twice or more: a Runge-Kutta method."""
        return self.nfe == 1 or self.stages <= self.nfe // 2

    @property
    def multistep(self) -> bool:
        """It carries several, but fewer than n evaluations let a solver carry."""
        return not self.one_step and self.memory <= self.nfe // 2

    def is_of(self, kind: str) -> bool:
        """Whether it is of a kind of `solvers.Method`, or of a smaller one."""
        return bool(getattr(self, kind.replace("-", "_")))


REGIONS: dict[str, Callable[[Shown], bool]] = {
    "RK": lambda shown: shown.one_step and shown.generic,
    "Multistep": lambda shown: shown.multistep and shown.generic,
    "Exponential RK": lambda shown: shown.one_step and shown.exponential,
    "Exponential multistep": lambda shown: shown.multistep and shown.exponential,
    "Scale-Time RK": lambda shown: shown.one_step and shown.scale_time,
    "Scale-Time multistep": lambda shown: shown.multistep and shown.scale_time,
    "Non-Stationary": lambda shown: True,
}
"""The regions of Figure 3 and their tests, each before those that hold it."""


def region(shown: Shown) -> str:
    """The smallest region of Figure 3 that holds a solver."""
    return next(name for name, holds in REGIONS.items() if holds(shown))


def show(params: NSParams, scheduler: Scheduler, end: float = 1.0) -> Shown:
    """Reads off the numbers of a solver what it is.

    Args:
      params: the solver; from a few steps on, its structure can be told.
      scheduler: the path of the model; on cond-OT and VE, whose conditional paths are
        straight lines, generic and exponential are the same.
      end: the time of the last iterate.
    """
    straight = changes(scheduler).items()
    return Shown(
        tuple(name for name, change in straight if follows(params, change, end)),
        max(carried(params), default=1),
        max(steps(params)),
        len(params.a),
    )


def changes(scheduler: Scheduler) -> dict[str, ScaleTime]:
    """Changes of scheduler by name, each as x(t) = s_t x_bar(r_t)."""
    others = {"cosine": schedulers.cosine(), "vp": schedulers.vp()}
    targets = {"cond_ot": schedulers.cond_ot()} | {
        name: target for name, target in others.items() if target != scheduler
    }
    named = {name: between(target, scheduler) for name, target in targets.items()}
    return {"identity": identity(), **named}


def follows(params: NSParams, change: ScaleTime, end: float = 1.0) -> bool:
    """Whether each iterate stays on the curves s_t (c_0 + c_1 r_t), to rounding.

    On a curve p the velocities are p'(t_j), so that a_i p(t_0) + sum_j b_ij p'(t_j)
    must be p(t_{i+1}) for p = s and for p = s r.
    """
    _, a, b = params
    t = np.append(params.times, end)
    with np.errstate(invalid="ignore"):
        r, s, d_r, d_s = (f(t) for f in change)
        p = np.stack([s, s * r])
        d_p = np.stack([d_s, d_s * r + s * d_r])[:, :-1]
        error = p[:, :1] * a + d_p @ b.T - p[:, 1:]
        size = np.abs(p[:, :1] * a) + np.abs(d_p) @ np.abs(b).T + np.abs(p[:, 1:])
    return bool(np.all(np.abs(error) <= _EXACT * size))


def carried(params: NSParams) -> list[int]:
    """How many vectors a solver carries past its k-th evaluation, k = 1 .. n - 1.

    All that the iterates from x_k on take from x_0 and u_0 .. u_{k-1}: the rank of
    these rows and columns. It is 1 where a one-step method begins a step, and m in a
    method of m steps; scaling iterates does not change it.
    """
    n = len(params.a)
    iterates = np.eye(n + 1)
    iterates[1:] = np.column_stack([params.a, params.b])
    return [
        int(np.linalg.matrix_rank(iterates[k:, : k + 1], rtol=_EXACT))
        for k in range(1, n)
    ]


def steps(params: NSParams) -> list[int]:
    """Evaluations between the times at which a solver carries one vector only."""
    fresh = [k for k, vectors in enumerate(carried(params), start=1) if vectors == 1]
    return np.diff([0, *fresh, len(params.a)]).tolist()


class Clock(NamedTuple):
    """A variable in which a method may take equal steps.

    Attributes:
      change: x(t) = s_t x_bar(r_t), with r_t the variable.
      inverse: the time at which it has a value.
    """

    change: ScaleTime
    inverse: Callable[[Time], Array]

    def uniform(self, start: float, end: float) -> grids.Grid:
        """Equal steps of the variable between two times."""
        first, last = np.asarray(self.change.t(np.array([start, end])))
        return lambda n: np.asarray(self.inverse(np.linspace(first, last, n + 1)))


def clocks(scheduler: Scheduler) -> dict[str, Clock]:
    """Time; and for x / alpha noise-to-signal and log-SNR, which are finite inside."""

    def alpha_and(
        r: Callable[[Time], Array], d_r: Callable[[Time], Array]
    ) -> ScaleTime:
        return ScaleTime(r, scheduler.alpha, d_r, scheduler.d_alpha)

    def minus_ratio(t: Time) -> Array:
        return -scheduler.sigma(t) / scheduler.alpha(t)

    def d_minus_ratio(t: Time) -> Array:
        return -minus_ratio(t) * d_log_snr(t)

    def d_log_snr(t: Time) -> Array:
        alpha, sigma = scheduler.alpha(t), scheduler.sigma(t)
        return scheduler.d_alpha(t) / alpha - scheduler.d_sigma(t) / sigma

    return {
        "time": Clock(identity(), np.asarray),
        "sigma/alpha": Clock(
            alpha_and(minus_ratio, d_minus_ratio),
            lambda r: scheduler.snr_inverse(-1.0 / r),
        ),
        "log-SNR": Clock(
            alpha_and(scheduler.log_snr, d_log_snr), scheduler.log_snr_inverse
        ),
    }


def is_steady(params: NSParams, clock: Clock, end: float = 1.0) -> bool:
    """Whether every step is the same, in a solver of equal steps of a clock.

    Then x_bar answers to the velocities of the next step by the same numbers one step
    later. It need not for the first third of them, while a multistep method still
    gathers its points, nor after the last step of full length.
    """
    n, lengths = len(params.a), steps(params)
    longest = max(lengths)
    full = longest * len([*itertools.takewhile(lambda m: m == longest, lengths)])
    m = longest if full > longest else 1
    solver = under(as_solver(params), clock.change, params.times[0], end)
    settled = m * (n // 3 // m)
    b = from_solver(solver, n).b[settled:full, settled:full]
    return np.allclose(b[m:, m:], b[:-m, :-m], rtol=0, atol=_EXACT * np.max(np.abs(b)))
