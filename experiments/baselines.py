"""The solvers that people use today, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable

from bns_jax import grids, solvers
from bns_jax.ns import NSParams
from bns_jax.schedulers import Scheduler

_Builder = Callable[[int, Scheduler], NSParams]

_NAMES = (
    "euler",
    "midpoint",
    "heun",
    "rk4",
    "ab2",
    "ab3",
    "ab4",
    "ddim",
    "dpm_solver_pp_2m",
    "dpm_solver_pp_3m",
    "dpm_solver_2m",
    "unipc2",
    "unipc3",
    "deis_tab3",
    "ipndm3",
    "edm_heun",
)


def _dpm_solver_pp_2m_log_snr(nfe: int, scheduler: Scheduler) -> NSParams:
    grid = grids.log_snr(scheduler)
    return solvers.build("dpm_solver_pp_2m", nfe, scheduler, grid)


BASELINES: dict[str, _Builder] = {
    **{name: functools.partial(solvers.build, name) for name in _NAMES},
    "dpm_solver_pp_2m_log_snr": _dpm_solver_pp_2m_log_snr,
}
"""Those compared by default; `solvers.CATALOGUE` has more."""


def build(nfe: int, scheduler: Scheduler) -> dict[str, NSParams]:
    """Every baseline that exists at this number of evaluations."""
    built = {}
    for name, builder in BASELINES.items():
        try:
            built[name] = builder(nfe, scheduler)
        except ValueError:
            # RK4 takes 4 evaluations per step: it has no member at NFE 6.
            continue
    return built
