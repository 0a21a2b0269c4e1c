"""What exponential integrators are made of (eq. 22).

They integrate the linear part of the sampling ODE exactly and interpolate what the
model predicts. The prediction is read off the velocity, whatever the network's own
parametrization: u and x name both ends of the path, since x = alpha m + sigma e and
u = alpha' m + sigma' e.

Notation of this package: a step leads from t to t', h is the increase of log-SNR, m
and e are the clean sample and the noise that the model sees. Everything is written in
forms that stay finite where alpha or sigma is 0; a step that touches infinite log-SNR
is of first order.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from bns_jax import grids
from bns_jax.schedulers import Scheduler
from bns_jax.solvers.base import History
from bns_jax.solvers.options import check_distinct
from bns_jax.typing import Sample, VelocityField

Kind: TypeAlias = Literal["noise", "data"]
"""Which prediction an exponential integrator interpolates."""

KINDS = ("noise", "data")


class PathPoint(NamedTuple):
    """A time on the path of a scheduler, as float64 numbers."""

    t: float
    alpha: float
    sigma: float
    log_snr: float


class Prediction(NamedTuple):
    """What a model sees in x: m, the clean sample, and e, the noise."""

    m: Any
    e: Any

    def of(self, kind: Kind) -> Any:
        """The one that is interpolated.

        Args:
          kind: "noise" or "data".

        Returns:
          e or m, like x.
        """
        return self.e if kind == "noise" else self.m


class Step(NamedTuple):
    """One step of an exponential integrator, from `start` to `end`."""

    start: PathPoint
    end: PathPoint

    @property
    def h(self) -> float:
        """The increase of log-SNR; infinite where alpha or sigma is 0 at an end."""
        return self.end.log_snr - self.start.log_snr

    def first_order(self, output: Prediction) -> Any:
        """The step alpha' m + sigma' e: DDIM, exact for a constant prediction.

        Args:
          output: the prediction at the start.

        Returns:
          x at the end, like m and e.
        """
        return self.end.alpha * output.m + self.end.sigma * output.e

    def scale(self, kind: Kind) -> float:
        """The factor S in front of all corrections to `first_order`.

        Args:
          kind: "noise" or "data".

        Returns:
          -sigma' for noise, -alpha' for data.
        """
        return -self.end.sigma if kind == "noise" else -self.end.alpha

    def signed_h(self, kind: Kind) -> float:
        """z, which is h for predictions of noise and -h for data.

        Args:
          kind: "noise" or "data".

        Returns:
          z; infinite as h is.
        """
        return self.h if kind == "noise" else -self.h


def point(scheduler: Scheduler, t: float) -> PathPoint:
    """alpha, sigma and log-SNR at t.

    Args:
      scheduler: the path of the model.
      t: time in [0, 1].

    Returns:
      The point, Python's floats.
    """
    alpha, sigma = float(scheduler.alpha(t)), float(scheduler.sigma(t))
    return PathPoint(float(t), alpha, sigma, float(scheduler.log_snr(t)))


def steps_on(
    scheduler: Scheduler,
    grid: grids.GridLike | None,
    count: int,
    repeat_last: bool = True,
) -> list[Step]:
    """The steps of a grid with distinct times; uniform if left out.

    Args:
      scheduler: the path of the model.
      grid: of so many steps.
      count: how many.
      repeat_last: whether the last step may have no length: the grids that end in a
        repeated level of noise spend an evaluation there.

    Returns:
      `count` steps, from the first time to the last.

    Raises:
      ValueError: if it is no grid, or repeats a time.
    """
    times = grids.times(grid, count)
    points = [point(scheduler, t) for t in times]
    check_distinct(times, repeat_last and np.isfinite(points[-1].log_snr))
    return list(itertools.starmap(Step, itertools.pairwise(points)))


def predict(
    vf: VelocityField, scheduler: Scheduler, at: PathPoint, x: Sample
) -> Prediction:
    """One call of the field, read as a prediction of both ends of the path (eq. 5).

    Args:
      vf: the velocity field.
      scheduler: the path of the model.
      at: the point that it is called at.
      x: a sample there.

    Returns:
      m and e, like x.
    """
    d_alpha, d_sigma = scheduler.d_alpha(at.t), scheduler.d_sigma(at.t)
    wronskian = at.sigma * d_alpha - at.alpha * d_sigma
    u = vf(at.t, x)
    m = (at.sigma / wronskian) * u - (d_sigma / wronskian) * x
    e = (d_alpha / wronskian) * x - (at.alpha / wronskian) * u
    return Prediction(m, e)


def remember(
    scheduler: Scheduler, history: History
) -> list[tuple[PathPoint, Prediction]]:
    """Exact points before the grid, as a multistep method would have met them.

    Args:
      scheduler: the path of the model.
      history: (t, x, u) before the grid, oldest first.

    Returns:
      Each point and what the model predicts there, oldest first.
    """
    outputs = []
    for t, x, u in history:
        at = point(scheduler, t)
        outputs.append((at, predict(lambda *_, u=u: u, scheduler, at, x)))
    return outputs
