"""Solvers to compare with, by name, with the options that the field uses.

Multistep DPM-Solver, DPM-Solver++ and DEIS fall in order at the end below 15 steps and
UniPC always, as in diffusers: in few steps they are far better for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bns_jax import grids, kinds
from bns_jax.ns import NSParams
from bns_jax.schedulers import Scheduler, cond_ot
from bns_jax.solvers.catalogue import CATALOGUE, build, look_up

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
    *CATALOGUE,
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

    Args:
      names: of the catalogue, each with @ and a grid behind it or not; "common" and
        "all" stand for many.

    Returns:
      The names, in the order given.

    Raises:
      ValueError: if a name is not "solver" or "solver@grid", with what would be.
    """
    kinds.check_names("names", names)
    single = dict.fromkeys(n for name in names for n in _SETS.get(name, (name,)))
    for name in single:
        _split(name)
    return tuple(single)


def build_all(
    names: Sequence[str], nfe: int, scheduler: Scheduler | None
) -> dict[str, NSParams]:
    """Those of the solvers that exist at this number of evaluations.

    Args:
      names: as `expand` gives them.
      nfe: evaluations.
      scheduler: the path of the model; without it there are those that need none.

    Returns:
      name -> solver, in the order of `names`.

    Raises:
      ValueError: if a name is not "solver" or "solver@grid", with what would be.
    """
    solvers = {}
    for name in names:
        solver, grid = _split(name)
        needs_path = grid or look_up(solver).kind != "generic"
        if scheduler is None and needs_path:
            continue
        path = scheduler or cond_ot()
        times = _GRIDS[grid](path) if grid else None
        try:
            solvers[name] = build(solver, nfe, path, times)
        except ValueError:
            # RK4 takes 4 evaluations per step: it has no member at NFE 6.
            continue
    return solvers


def _split(name: str) -> tuple[str, str]:
    """The solver and the grid, which may be empty."""
    solver, _, grid = name.partition("@")
    look_up(solver)
    if grid and grid not in _GRIDS:
        raise ValueError(f"{name}: expected a grid of {list(_GRIDS)}, got {grid!r:.60}")
    return solver, grid
