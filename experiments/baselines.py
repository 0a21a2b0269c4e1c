"""The solvers that people use today, by name."""

from __future__ import annotations

from collections.abc import Callable

from bns_jax import grids, solvers
from bns_jax.ns import NSParams
from bns_jax.schedulers import Scheduler

_Builder = Callable[[int, Scheduler], NSParams]

BASELINES: dict[str, _Builder] = {
    "euler": lambda nfe, _: solvers.euler(nfe),
    "midpoint": lambda nfe, _: solvers.midpoint(nfe),
    "heun": lambda nfe, _: solvers.heun(nfe),
    "rk4": lambda nfe, _: solvers.rk4(nfe),
    "ab2": lambda nfe, _: solvers.adams_bashforth(nfe, 2),
    "ab3": lambda nfe, _: solvers.adams_bashforth(nfe, 3),
    "ab4": lambda nfe, _: solvers.adams_bashforth(nfe, 4),
    "ddim": lambda nfe, scheduler: solvers.ddim(nfe, scheduler),
    "dpm_solver_pp_2m": lambda nfe, scheduler: solvers.dpm_solver_pp(nfe, scheduler),
    "dpm_solver_pp_2m_log_snr": lambda nfe, scheduler: solvers.dpm_solver_pp(
        nfe, scheduler, grid=grids.log_snr(scheduler)
    ),
}


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
