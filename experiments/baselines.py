"""The solvers to compare with, by name, with the options that the field uses.

Multistep DPM-Solver, DPM-Solver++ and DEIS fall in order at the end below 15 steps and
UniPC always, as in diffusers: in few steps they are far better for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bns_jax import grids, solvers
from bns_jax.ns import NSParams
from bns_jax.schedulers import Scheduler
from experiments import report

_GRIDS: dict[str, Callable[[Scheduler], grids.Grid]] = {
    "uniform": lambda _: grids.uniform(),
    "log_snr": grids.log_snr,
    "karras": grids.karras,
    "exponential": grids.exponential,
    "beta": grids.beta,
}

COMMON = (
    "euler",
    "midpoint",
    "heun",
    "rk4",
    "ab2",
    "ab3",
    "ab4",
    "ddim",
    "dpm_solver_pp_2m",
    "dpm_solver_pp_2m@log_snr",
    "dpm_solver_pp_3m",
    "dpm_solver_2m",
    "unipc2",
    "unipc3",
    "deis_tab3",
    "ipndm3",
    "edm_heun",
)
"""Those that people use most."""

ALL = (
    *solvers.CATALOGUE,
    "dpm_solver_pp_2m@log_snr",
    "dpm_solver_pp_3m@log_snr",
    "unipc3@log_snr",
    "dpm_solver_pp_2m@karras",
)
"""Every solver on its own grid, and the best known of them on the grids of their papers
and of public samplers."""

_SETS = {"common": COMMON, "all": ALL}


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """Names with "common" and "all" written out, each once.

    Raises:
      ValueError: if a name is not "solver" or "solver@grid", with what would be.
    """
    expanded = dict.fromkeys(n for name in names for n in _SETS.get(name, (name,)))
    for name in expanded:
        _split(name)
    return tuple(expanded)


def build(names: Sequence[str], nfe: int, scheduler: Scheduler) -> dict[str, NSParams]:
    """Those of the solvers that exist at this number of evaluations."""
    built = {}
    for name in names:
        solver, grid = _split(name)
        laid = _GRIDS[grid](scheduler) if grid else None
        try:
            built[name] = solvers.build(solver, nfe, scheduler, laid)
        except ValueError:
            # RK4 takes 4 evaluations per step: it has no member at NFE 6.
            continue
    return built


def describe() -> str:
    """A line for every solver: its name, what it is, and where it is published."""
    lines = [["solver", "", "reference"], []]
    for name, entry in solvers.CATALOGUE.items():
        lines.append([name, entry.description, entry.reference])
    return report.aligned(lines, "<")


def _split(name: str) -> tuple[str, str]:
    """The solver and the grid, which may be empty."""
    solver, _, grid = name.partition("@")
    solvers.look_up(solver)
    if grid and grid not in _GRIDS:
        raise ValueError(f"{name}: expected a grid of {list(_GRIDS)}, got {grid!r}")
    return solver, grid
