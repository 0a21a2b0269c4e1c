"""What exponential integrators are made of (eq. 22).

They integrate the linear part of the sampling ODE exactly and interpolate what the
model predicts. The prediction is read off the velocity, whatever the network's own
parametrisation: u and x name both ends of the path, since x = alpha m + sigma e and
u = alpha' m + sigma' e.

Notation of this package: a step leads from t to t', h is the increase of log-SNR, m
and e are the clean sample and the noise that the model sees. Everything is written in
forms that stay finite where alpha or sigma is 0; a step that touches infinite log-SNR
is of first order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from bns_jax import grids, scalars
from bns_jax.schedulers import Scheduler
from bns_jax.typing import Sample, VelocityField

Kind: TypeAlias = Literal["noise", "data"]
"""Which prediction an exponential integrator interpolates."""

KINDS = ("noise", "data")

FEW_STEPS = 15
"""Below so many steps multistep methods fall in order at the end, by default."""

History: TypeAlias = Sequence[tuple[float, Sample, Sample]]
"""(t, x, u) of points before a grid, oldest first."""


class Point(NamedTuple):
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
        """The one that is interpolated."""
        return self.e if kind == "noise" else self.m


class Step(NamedTuple):
    """One step of an exponential integrator, from `start` to `end`."""

    start: Point
    end: Point

    @property
    def h(self) -> float:
        """The increase of log-SNR; infinite where alpha or sigma is 0 at an end."""
        return self.end.log_snr - self.start.log_snr

    def first_order(self, seen: Prediction) -> Any:
        """The step alpha' m + sigma' e: DDIM, exact for a constant prediction."""
        return self.end.alpha * seen.m + self.end.sigma * seen.e

    def scale(self, kind: Kind) -> float:
        """The factor S in front of all corrections to `first_order`."""
        return -self.end.sigma if kind == "noise" else -self.end.alpha

    def signed_h(self, kind: Kind) -> float:
        """z, which is h for predictions of noise and -h for data."""
        return self.h if kind == "noise" else -self.h


def point(scheduler: Scheduler, t: float) -> Point:
    """alpha, sigma and log-SNR at t."""
    alpha, sigma = float(scheduler.alpha(t)), float(scheduler.sigma(t))
    return Point(float(t), alpha, sigma, float(scheduler.log_snr(t)))


def points(
    scheduler: Scheduler,
    grid: grids.GridLike | None,
    steps: int,
    repeat_last: bool = True,
) -> list[Point]:
    """The points of a grid with distinct times; uniform if left out.

    Args:
      scheduler: the path of the model.
      grid: of so many steps.
      steps: how many.
      repeat_last: whether the last step may have no length: the grids that end in a
        repeated level of noise spend an evaluation there.

    Raises:
      ValueError: if it is no grid, or repeats a time.
    """
    times = grids.times(grid, steps)
    laid = [point(scheduler, t) for t in times]
    check_distinct(times, repeat_last and np.isfinite(laid[-1].log_snr))
    return laid


def check_distinct(times: np.ndarray, repeat_last: bool = True) -> None:
    """Refuses steps without length.

    Args:
      times: of a grid.
      repeat_last: whether the last step may have none.

    Raises:
      ValueError: if another has none.
    """
    lengths = np.diff(times)
    if np.any((lengths[:-1] if repeat_last and len(lengths) > 1 else lengths) == 0):
        raise ValueError(f"this solver needs distinct times, got {times}")


def steps_of(laid: list[Point]) -> Iterator[Step]:
    """The steps between neighbouring points."""
    return itertools.starmap(Step, itertools.pairwise(laid))


def predict(
    vf: VelocityField, scheduler: Scheduler, at: Point, x: Sample
) -> Prediction:
    """One call of the field, read as a prediction of both ends."""
    d_alpha, d_sigma = scheduler.d_alpha(at.t), scheduler.d_sigma(at.t)
    wronskian = at.sigma * d_alpha - at.alpha * d_sigma
    u = vf(at.t, x)
    m = (at.sigma / wronskian) * u - (d_sigma / wronskian) * x
    e = (d_alpha / wronskian) * x - (at.alpha / wronskian) * u
    return Prediction(m, e)


def remember(scheduler: Scheduler, history: History) -> list[tuple[Point, Prediction]]:
    """Exact points before the grid, as a multistep method would have met them."""
    met = []
    for t, x, u in history:
        at = point(scheduler, t)
        met.append((at, predict(lambda *_, u=u: u, scheduler, at, x)))
    return met


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuses a value that is none of the choices.

    Raises:
      ValueError: naming them.
    """
    if value not in choices:
        named = " or ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"{name} must be {named}, got {value!r}")


def check_order(order: int, highest: int, nfe: int) -> tuple[int, int]:
    """The order and nfe as whole numbers.

    Raises:
      ValueError: if the method does not have that order, or nfe cannot reach it.
    """
    if isinstance(order, bool) or order not in range(1, highest + 1):
        raise ValueError(f"order must be from 1 to {highest}, got {order}")
    order, nfe = scalars.count("order", order), scalars.count("nfe", nfe)
    if nfe < order:
        raise ValueError(f"order {order} needs nfe >= {order}, got {nfe}")
    return order, nfe


def orders_of(
    steps: int,
    order: int,
    lower_order_final: bool | None,
    by_default: bool,
    euler_at_final: bool = False,
) -> list[int]:
    """The highest order that each step of a multistep method may have.

    Args:
      steps: how many.
      order: of the method.
      lower_order_final: whether the order falls by one a step at the end: .. 3, 2, 1.
      by_default: what None stands for.
      euler_at_final: whether the last step is of order 1 in any case.
    """
    falls = by_default if lower_order_final is None else lower_order_final
    orders = [min(order, steps - i) if falls else order for i in range(steps)]
    if euler_at_final:
        orders[-1] = 1
    return orders
