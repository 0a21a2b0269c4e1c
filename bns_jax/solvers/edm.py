"""EDM's samplers: Euler and Heun under the variance-exploding scheduler (eq. 16-17)."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np

from bns_jax import grids, scalars
from bns_jax.ns import NSParams, from_solver
from bns_jax.scale_time import between, under
from bns_jax.schedulers import Scheduler, ve
from bns_jax.solvers.prediction import check_choice
from bns_jax.typing import Sample, Solver, VelocityField


def edm_algorithm(
    nfe: int,
    scheduler: Scheduler,
    *,
    method: Literal["euler", "heun"] = "heun",
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float = 7.0,
    grid: grids.GridLike | None = None,
) -> Solver:
    """EDM's deterministic sampler as a plain algorithm."""
    check_choice("method", method, ("euler", "heun"))
    nfe = scalars.count("nfe", nfe)
    if method == "heun" and nfe % 2 == 0:
        raise ValueError(
            "EDM's Heun makes two evaluations a step and one in the last: nfe must be "
            f"odd and positive, got {nfe}"
        )
    sigma_min, sigma_max = grids.level_range(scheduler, sigma_min, sigma_max)
    if grid is None:
        grid = grids.karras(scheduler, sigma_min, sigma_max, rho)
    steps = nfe if method == "euler" else (nfe + 1) // 2
    times = grids.times(grid, steps)
    largest = float(np.exp(-scheduler.log_snr(times[0])))
    target = ve(largest if np.isfinite(largest) else sigma_max)
    # The grid is given in the model's time; the method runs in that of `target`.
    r = np.asarray(target.snr_inverse(scheduler.snr(times))).clip(0.0, 1.0)
    if np.any(np.diff(r)[:-1] == 0) or (r[-2] == r[-1] and r[-1] == 1):
        raise ValueError(
            f"EDM needs distinct times, all but the first of less noise than "
            f"sigma_max = {sigma_max:g} where the first has infinitely much, got "
            f"{times}"
        )

    def algorithm(vf: VelocityField, x0: Sample) -> Sample:
        x = x0
        for i, (r_now, r_next) in enumerate(itertools.pairwise(r), start=1):
            h, u = r_next - r_now, vf(r_now, x)
            euler = x + h * u
            # At the last time sigma is 0 and the field of VE has no value.
            if method == "euler" or i == steps:
                x = euler
            else:
                x = x + h * 0.5 * (u + vf(r_next, euler))
        return x

    change = between(scheduler, target)
    return under(algorithm, change, start=float(r[0]), end=float(r[-1]))


def edm(
    nfe: int,
    scheduler: Scheduler,
    *,
    method: Literal["euler", "heun"] = "heun",
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float = 7.0,
    grid: grids.GridLike | None = None,
) -> NSParams:
    """EDM's deterministic samplers (Karras et al., 2022, Algorithm 1).

    Args:
      nfe: evaluations; Heun's method makes two a step and one in the last.
      scheduler: the path of the model; the change to VE is folded away.
      method: "euler" or "heun".
      sigma_min: last noise-to-signal ratio above 0; as of `grids.karras` if left out.
      sigma_max: the first one, also where a given grid starts at pure noise; if left
        out the scheduler's own, 80 where that is infinite. The first time is where the
        model has it, not 0 (`grids.karras`).
      rho: curvature of the Karras grid.
      grid: times of `scheduler`; the Karras grid if left out.

    Raises:
      ValueError: if nfe is even for Heun, or the grid is not sorted in [0, 1] or
        repeats a time.
    """
    algorithm = edm_algorithm(
        nfe,
        scheduler,
        method=method,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        rho=rho,
        grid=grid,
    )
    return from_solver(algorithm, nfe)
