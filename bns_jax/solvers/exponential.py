"""Exponential integrators (eq. 22), in the coefficients that stay finite at the ends.

They integrate the linear part of the sampling ODE exactly and interpolate what the
model predicts. The prediction is read off the velocity, whatever the network's own
parametrisation: u and x name both ends of the path, since x = alpha m + sigma e and
u = alpha' m + sigma' e.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from bns_jax import grids
from bns_jax.ns import NSParams, from_solver
from bns_jax.schedulers import Scheduler
from bns_jax.typing import Sample, Solver, VelocityField


class _Prediction(NamedTuple):
    """m, the clean sample, and e, the noise, that a model sees in x."""

    m: Any
    e: Any


def _predict(
    vf: VelocityField, scheduler: Scheduler, t: float, x: Sample
) -> _Prediction:
    alpha, sigma = scheduler.alpha(t), scheduler.sigma(t)
    d_alpha, d_sigma = scheduler.d_alpha(t), scheduler.d_sigma(t)
    wronskian = sigma * d_alpha - alpha * d_sigma
    u = vf(t, x)
    m = (sigma / wronskian) * u - (d_sigma / wronskian) * x
    e = (d_alpha / wronskian) * x - (alpha / wronskian) * u
    return _Prediction(m, e)


def _distinct_times(grid: grids.GridLike | None, steps: int) -> np.ndarray:
    times = grids.times(grid, steps)
    if np.any(np.diff(times) == 0):
        raise ValueError(f"exponential integrators need distinct times, got {times}")
    return times


def ddim_algorithm(
    nfe: int, scheduler: Scheduler, *, grid: grids.GridLike | None = None
) -> Solver:
    """DDIM as a plain algorithm: x' = alpha' m + sigma' e."""
    times = _distinct_times(grid, nfe)

    def algorithm(vf: VelocityField, x0: Sample) -> Sample:
        x = x0
        for t, t_next in itertools.pairwise(times):
            m, e = _predict(vf, scheduler, t, x)
            x = scheduler.alpha(t_next) * m + scheduler.sigma(t_next) * e
        return x

    return algorithm


def ddim(
    nfe: int, scheduler: Scheduler, *, grid: grids.GridLike | None = None
) -> NSParams:
    """DDIM (Song et al., 2021), of order 1: exponential Euler.

    The same for eps- and for x-prediction: both keep one prediction over a step.

    Args:
      nfe: steps.
      scheduler: the path of the model.
      grid: of nfe steps; uniform in time if left out.
    """
    return from_solver(ddim_algorithm(nfe, scheduler, grid=grid), nfe)


def dpm_solver_pp_algorithm(
    nfe: int,
    scheduler: Scheduler,
    order: int = 2,
    *,
    grid: grids.GridLike | None = None,
) -> Solver:
    """DPM-Solver++ multistep as a plain algorithm.

    Raises:
      ValueError: if the order is not 1 or 2, or above nfe.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")
    if nfe < order:
        raise ValueError(f"order {order} needs nfe >= {order}, got {nfe}")
    times = _distinct_times(grid, nfe)

    def algorithm(vf: VelocityField, x0: Sample) -> Sample:
        x, m_last = x0, None
        h_last: Any = np.inf
        for t, t_next in itertools.pairwise(times):
            m, _ = _predict(vf, scheduler, t, x)
            h = scheduler.log_snr(t_next) - scheduler.log_snr(t)
            # Where a step touches infinite log-SNR it is of first order.
            second = order == 2 and np.isfinite(h) and np.isfinite(h_last)
            D = m + (h / (2 * h_last)) * (m - m_last) if second else m
            # sigma' / sigma and alpha' (1 - exp(-h)), finite at both ends.
            ratio = scheduler.sigma(t_next) / scheduler.sigma(t)
            x = ratio * x + (scheduler.alpha(t_next) - scheduler.alpha(t) * ratio) * D
            m_last, h_last = m, h
        return x

    return algorithm


def dpm_solver_pp(
    nfe: int,
    scheduler: Scheduler,
    order: int = 2,
    *,
    grid: grids.GridLike | None = None,
) -> NSParams:
    """DPM-Solver++ multistep (Lu et al., 2022b, Algorithm 2): order 2 is "2M".

    Args:
      nfe: steps, at least the order.
      scheduler: the path of the model.
      order: 1 (DDIM) or 2. The first step is of order 1, and so is every step that
        touches infinite log-SNR.
      grid: of nfe steps; uniform in time if left out.

    Raises:
      ValueError: if the order is out of range or above nfe, or times are repeated.
    """
    return from_solver(dpm_solver_pp_algorithm(nfe, scheduler, order, grid=grid), nfe)
