"""All solvers by name, for flags, tables and plots."""

from __future__ import annotations

import difflib
from typing import Any

from bns_jax import grids, kinds
from bns_jax.ns import NSParams
from bns_jax.schedulers import Scheduler
from bns_jax.solvers.base import Method
from bns_jax.solvers.ddim import DDIM
from bns_jax.solvers.deis import DEIS
from bns_jax.solvers.dpm import DPMMultistep, DPMSinglestep
from bns_jax.solvers.edm import EDM
from bns_jax.solvers.ipndm import IPNDM
from bns_jax.solvers.multistep import AdamsBashforth
from bns_jax.solvers.pndm import PNDM
from bns_jax.solvers.runge_kutta import HeunEuler, RungeKutta
from bns_jax.solvers.tableaus import EULER, HEUN, MIDPOINT, RALSTON, RK3, RK4
from bns_jax.solvers.unipc import UniPC
from bns_jax.typing import Solver

CATALOGUE: dict[str, Method] = {
    "euler": RungeKutta(EULER),
    "midpoint": RungeKutta(MIDPOINT),
    "heun": RungeKutta(HEUN),
    "heun_euler": HeunEuler(),
    "ralston": RungeKutta(RALSTON),
    "rk3": RungeKutta(RK3),
    "rk4": RungeKutta(RK4),
    "ab2": AdamsBashforth(order=2),
    "ab3": AdamsBashforth(order=3),
    "ab4": AdamsBashforth(order=4),
    "ab5": AdamsBashforth(order=5),
    "ddim": DDIM(),
    "dpm_solver_2s": DPMSinglestep(order=2, prediction="noise"),
    "dpm_solver_3s": DPMSinglestep(order=3, prediction="noise"),
    "dpm_solver_2m": DPMMultistep(points=2, prediction="noise"),
    "dpm_solver_3m": DPMMultistep(points=3, prediction="noise"),
    "dpm_solver_pp_2s": DPMSinglestep(order=2, prediction="data"),
    "dpm_solver_pp_2m": DPMMultistep(points=2, prediction="data"),
    "dpm_solver_pp_3m": DPMMultistep(points=3, prediction="data"),
    "deis_tab2": DEIS(order=2, variable="tab"),
    "deis_tab3": DEIS(order=3, variable="tab"),
    "deis_log_rho2": DEIS(order=2, variable="log_rho"),
    "deis_log_rho3": DEIS(order=3, variable="log_rho"),
    "unipc1": UniPC(p=1),
    "unipc2": UniPC(p=2),
    "unipc3": UniPC(p=3),
    "unipc1_bh1": UniPC(p=1, variant="bh1"),
    "unipc2_bh1": UniPC(p=2, variant="bh1"),
    "unipc3_bh1": UniPC(p=3, variant="bh1"),
    "ipndm2": IPNDM(order=2),
    "ipndm3": IPNDM(order=3),
    "ipndm4": IPNDM(order=4),
    "pndm": PNDM(),
    "edm_euler": EDM(method="euler"),
    "edm_heun": EDM(method="heun"),
}
"""name -> Method, for every solver that needs nothing but nfe, scheduler and grid."""


def look_up(name: str) -> Method:
    """The solver of that name, with its options.

    Args:
      name: a key of `CATALOGUE`.

    Returns:
      The solver.

    Raises:
      ValueError: if there is none; gives the nearest names.
    """
    kinds.check("the name of a solver, such as 'euler'", name, str)
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name.lower(), CATALOGUE, n=3, cutoff=0.0)
        raise ValueError(
            f"no solver is called {name!r}; the nearest are {', '.join(near)}"
        )
    return CATALOGUE[name]


def algorithm(
    name: str,
    nfe: int,
    scheduler: Scheduler | None = None,
    grid: grids.GridLike | None = None,
    **options: Any,
) -> Solver:
    """A solver by its name, as a plain algorithm.

    Args:
      name: a key of `CATALOGUE`.
      nfe: evaluations.
      scheduler: the path of the model. Those of kind "generic", Runge-Kutta and
        Adams-Bashforth (`euler` to `rk4`, `ab2` to `ab5`), need none.
      grid: the solver's own default if left out.
      **options: of the solver, as its public function takes them, and `history` of
        the multistep ones. What is left out is as the name and the field have it: in
        few steps multistep methods fall in order at the end.

    Returns:
      algorithm(vf, x0) -> x1.

    Raises:
      ValueError: if the name is unknown (the nearest ones are given), the solver has
        no such option, or it does not exist for these arguments.
    """
    method = look_up(name).replace(**options)
    method.check_scheduler(scheduler, grid)
    return method.algorithm(nfe, scheduler, grid)


def build(
    name: str,
    nfe: int,
    scheduler: Scheduler | None = None,
    grid: grids.GridLike | None = None,
    **options: Any,
) -> NSParams:
    """A solver by its name, as three arrays.

    Args:
      name: as of `algorithm`.
      nfe: likewise.
      scheduler: likewise.
      grid: likewise.
      **options: likewise.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: as `algorithm`.
    """
    return look_up(name).replace(**options).build(nfe, scheduler, grid)
