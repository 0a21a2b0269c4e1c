"""DDIM: exponential Euler, for noise and for data alike."""

from __future__ import annotations

from bns_jax import grids
from bns_jax.ns import NSParams, from_solver
from bns_jax.schedulers import Scheduler
from bns_jax.solvers.prediction import points, predict, steps_of
from bns_jax.typing import Sample, Solver, VelocityField


def ddim_algorithm(
    nfe: int, scheduler: Scheduler, *, grid: grids.GridLike | None = None
) -> Solver:
    """DDIM as a plain algorithm: x' = alpha' m + sigma' e."""
    laid = points(scheduler, grid, nfe)

    def algorithm(vf: VelocityField, x0: Sample) -> Sample:
        x = x0
        for step in steps_of(laid):
            x = step.first_order(predict(vf, scheduler, step.start, x))
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

    Raises:
      ValueError: if the grid is not sorted in [0, 1] or repeats a time.
    """
    return from_solver(ddim_algorithm(nfe, scheduler, grid=grid), nfe)
