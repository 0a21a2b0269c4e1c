"""iPNDM: DDIM with Adams-Bashforth weights on the noise (Zhang and Chen, 2023)."""

from __future__ import annotations

from bns_jax import grids
from bns_jax.ns import NSParams, from_solver
from bns_jax.schedulers import Scheduler
from bns_jax.solvers.prediction import (
    History,
    check_order,
    points,
    predict,
    remember,
    steps_of,
)
from bns_jax.typing import Sample, Solver, VelocityField

# The weights of equal steps, the newest first; the method uses them on any grid.
WEIGHTS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def ipndm_algorithm(
    nfe: int,
    scheduler: Scheduler,
    order: int,
    *,
    grid: grids.GridLike | None = None,
    history: History = (),
) -> Solver:
    """IPNDM as a plain algorithm."""
    order, nfe = check_order(order, max(WEIGHTS), nfe)
    laid = points(scheduler, grid, nfe)

    def algorithm(vf: VelocityField, x0: Sample) -> Sample:
        x, past = x0, [seen.e for _, seen in remember(scheduler, history)][::-1]
        for step in steps_of(laid):
            seen = predict(vf, scheduler, step.start, x)
            past = [seen.e, *past][:order]
            x = step.first_order(seen)
            if step.start.alpha > 0:
                weights = WEIGHTS[len(past)]
                mixed = sum(w * e for w, e in zip(weights, past, strict=True))
                # alpha' (rho' - rho), rho = sigma / alpha: DDIM's weight of the noise.
                ratio = step.end.alpha / step.start.alpha
                x = x + (step.end.sigma - ratio * step.start.sigma) * (mixed - seen.e)
        return x

    return algorithm


def ipndm(
    nfe: int,
    scheduler: Scheduler,
    order: int = 4,
    *,
    grid: grids.GridLike | None = None,
) -> NSParams:
    """IPNDM (Zhang and Chen, 2023; Liu et al., 2022), one evaluation a step.

    Its weights are those of equal steps, whatever the grid: a method of order above 1
    only where the grid is uniform in sigma / alpha.

    Args:
      nfe: steps, at least the order.
      scheduler: the path of the model.
      order: from 1 (DDIM) to 4; the first steps are of lower order.
      grid: of nfe steps; uniform in time if left out.

    Raises:
      ValueError: if the order is out of range or above nfe, or the grid is not sorted
        in [0, 1] or repeats a time.
    """
    return from_solver(ipndm_algorithm(nfe, scheduler, order, grid=grid), nfe)
