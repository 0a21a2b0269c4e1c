"""All solvers by name, for flags, tables and plots."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

from bns_jax import grids
from bns_jax.ns import NSParams, from_solver
from bns_jax.schedulers import Scheduler
from bns_jax.solvers.ddim import ddim_algorithm
from bns_jax.solvers.deis import deis_algorithm
from bns_jax.solvers.dpm_solver import (
    dpm_multistep_algorithm,
    dpm_singlestep_algorithm,
)
from bns_jax.solvers.edm import edm_algorithm
from bns_jax.solvers.ipndm import ipndm_algorithm
from bns_jax.solvers.multistep import adams_bashforth_algorithm
from bns_jax.solvers.pndm import pndm_algorithm
from bns_jax.solvers.runge_kutta import (
    EULER,
    HEUN,
    MIDPOINT,
    RALSTON,
    RK3,
    RK4,
    Tableau,
    heun_euler_algorithm,
    runge_kutta_algorithm,
)
from bns_jax.solvers.unipc import unipc_algorithm
from bns_jax.typing import Solver


class Entry(NamedTuple):
    """A solver of the catalogue.

    Attributes:
      algorithm: algorithm(nfe, scheduler, **options) -> the plain algorithm.
      order: of convergence, on steps that touch no infinite log-SNR, with the options
        of `full_order`.
      description: in one line.
      reference: where it is published.
      kind: "generic" (knows nothing of the path), "exponential" or "scale-time".
      stages: evaluations per step.
      extra: evaluations beyond `stages` for each step; -1 where the last step makes one
        less.
      lowers: whether it takes lower_order_final=, by which the last steps of multistep
        methods are of lower order.
    """

    algorithm: Callable[..., Solver]
    order: int
    description: str
    reference: str
    kind: str
    stages: int = 1
    extra: int = 0
    lowers: bool = False

    @property
    def full_order(self) -> dict[str, Any]:
        """The options with which the last steps are as those before."""
        return {"lower_order_final": False} if self.lowers else {}


def _rk(tableau: Tableau, order: int, description: str) -> Entry:
    def algorithm(nfe: int, _: Scheduler, **options: Any) -> Solver:
        return runge_kutta_algorithm(nfe, tableau, **options)

    return Entry(algorithm, order, description, "eq. 54", "generic", tableau.stages)


def _heun_euler(nfe: int, _: Scheduler, **options: Any) -> Solver:
    return heun_euler_algorithm(nfe, **options)


def _ab(order: int, description: str) -> Entry:
    def algorithm(nfe: int, _: Scheduler, **options: Any) -> Solver:
        return adams_bashforth_algorithm(nfe, order, **options)

    return Entry(algorithm, order, description, "eq. 52", "generic")


def _with(function: Callable[..., Solver], **fixed: Any) -> Callable[..., Solver]:
    """The algorithm with some of its options set for good."""

    def algorithm(nfe: int, scheduler: Scheduler, **options: Any) -> Solver:
        return function(nfe, scheduler, **fixed, **options)

    return algorithm


def _exponential(
    reference: str,
    converges: int,
    description: str,
    function: Callable[..., Solver],
    stages: int = 1,
    **fixed: Any,
) -> Entry:
    algorithm, lowers = _with(function, **fixed), function in _LOWERING
    return Entry(
        algorithm,
        converges,
        description,
        reference,
        "exponential",
        stages,
        lowers=lowers,
    )


def _edm(order: int, description: str, stages: int, extra: int, method: str) -> Entry:
    reference = "Karras et al., 2022, arXiv:2206.00364"
    algorithm = _with(edm_algorithm, method=method)
    return Entry(algorithm, order, description, reference, "scale-time", stages, extra)


_DDIM = "Song et al., 2021, arXiv:2010.02502"
_DPM = "Lu et al., 2022, arXiv:2206.00927"
_DPM_PP = "Lu et al., 2022, arXiv:2211.01095"
_DEIS = "Zhang and Chen, 2023, arXiv:2204.13902"
_PNDM = "Liu et al., 2022, arXiv:2202.09778"
_UNIPC = "Zhao et al., 2023, arXiv:2302.04867"

_LOWERING = (dpm_multistep_algorithm, deis_algorithm, unipc_algorithm)

_S, _M, _UNI = dpm_singlestep_algorithm, dpm_multistep_algorithm, unipc_algorithm

CATALOGUE: dict[str, Entry] = {
    "euler": _rk(EULER, 1, "Euler"),
    "midpoint": _rk(MIDPOINT, 2, "midpoint"),
    "heun": _rk(HEUN, 2, "Heun, the explicit trapezoid"),
    "heun_euler": Entry(
        _heun_euler, 2, "Heun, Euler in the last step", "eq. 54", "generic", 2, extra=-1
    ),
    "ralston": _rk(RALSTON, 2, "Ralston"),
    "rk3": _rk(RK3, 3, "Kutta"),
    "rk4": _rk(RK4, 4, "Runge-Kutta"),
    "ab2": _ab(2, "Adams-Bashforth of order 2"),
    "ab3": _ab(3, "Adams-Bashforth of order 3"),
    "ab4": _ab(4, "Adams-Bashforth of order 4"),
    "ab5": _ab(5, "Adams-Bashforth of order 5"),
    "ddim": _exponential(_DDIM, 1, "DDIM, exponential Euler", ddim_algorithm),
    "dpm_solver_2s": _exponential(
        _DPM, 2, "DPM-Solver-2, singlestep, noise", _S, stages=2, order=2, kind="noise"
    ),
    "dpm_solver_3s": _exponential(
        _DPM, 3, "DPM-Solver-3, singlestep, noise", _S, stages=3, order=3, kind="noise"
    ),
    "dpm_solver_2m": _exponential(
        _DPM_PP, 2, "DPM-Solver(2M), multistep, noise", _M, order=2, kind="noise"
    ),
    "dpm_solver_3m": _exponential(
        _DPM_PP, 2, "DPM-Solver(3M), multistep, noise", _M, order=3, kind="noise"
    ),
    "dpm_solver_pp_2s": _exponential(
        _DPM_PP,
        2,
        "DPM-Solver++(2S), singlestep, data",
        _S,
        stages=2,
        order=2,
        kind="data",
    ),
    "dpm_solver_pp_2m": _exponential(
        _DPM_PP, 2, "DPM-Solver++(2M), multistep, data", _M, order=2, kind="data"
    ),
    "dpm_solver_pp_3m": _exponential(
        _DPM_PP, 2, "DPM-Solver++(3M), multistep, data", _M, order=3, kind="data"
    ),
    "deis_tab2": _exponential(
        _DEIS,
        2,
        "DEIS, 2 points, polynomial in time",
        deis_algorithm,
        order=2,
        variable="tab",
    ),
    "deis_tab3": _exponential(
        _DEIS,
        3,
        "DEIS, 3 points, polynomial in time",
        deis_algorithm,
        order=3,
        variable="tab",
    ),
    "deis_log_rho2": _exponential(
        _DEIS,
        2,
        "DEIS, 2 points, polynomial in log rho",
        deis_algorithm,
        order=2,
        variable="log_rho",
    ),
    "deis_log_rho3": _exponential(
        _DEIS,
        3,
        "DEIS, 3 points, polynomial in log rho",
        deis_algorithm,
        order=3,
        variable="log_rho",
    ),
    "unipc1": _exponential(_UNIPC, 2, "UniPC-1, data, B2", _UNI, order=1),
    "unipc2": _exponential(_UNIPC, 3, "UniPC-2, data, B2", _UNI, order=2),
    "unipc3": _exponential(_UNIPC, 4, "UniPC-3, data, B2", _UNI, order=3),
    "unipc1_bh1": _exponential(
        _UNIPC, 2, "UniPC-1, data, B1", _UNI, order=1, variant="bh1"
    ),
    "unipc2_bh1": _exponential(
        _UNIPC, 3, "UniPC-2, data, B1", _UNI, order=2, variant="bh1"
    ),
    "unipc3_bh1": _exponential(
        _UNIPC, 4, "UniPC-3, data, B1", _UNI, order=3, variant="bh1"
    ),
    "ipndm2": _exponential(_DEIS, 2, "iPNDM, 2 points", ipndm_algorithm, order=2),
    "ipndm3": _exponential(_DEIS, 3, "iPNDM, 3 points", ipndm_algorithm, order=3),
    "ipndm4": _exponential(_DEIS, 4, "iPNDM, 4 points", ipndm_algorithm, order=4),
    "pndm": _exponential(
        _PNDM, 3, "PNDM, PLMS: 4 points, from a step of Heun", pndm_algorithm
    )._replace(extra=1),
    "edm_euler": _edm(1, "Euler under VE on the Karras grid", 1, 0, "euler"),
    "edm_heun": _edm(2, "Heun under VE on the Karras grid", 2, -1, "heun"),
}
"""name -> Entry, for every solver that needs nothing but nfe, scheduler and grid."""


def look_up(name: str) -> Entry:
    """The entry of that name.

    Raises:
      ValueError: if there is none; gives the nearest names.
    """
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name.lower(), CATALOGUE, n=3, cutoff=0.0)
        raise ValueError(
            f"no solver is called {name!r}; the nearest are {', '.join(near)}"
        )
    return CATALOGUE[name]


def algorithm(
    name: str,
    nfe: int,
    scheduler: Scheduler,
    grid: grids.GridLike | None = None,
    **options: Any,
) -> Solver:
    """A solver by its name, as a plain algorithm.

    Args:
      name: a key of `CATALOGUE`.
      nfe: evaluations.
      scheduler: the path of the model.
      grid: the solver's own default if left out.
      **options: what else the solver's `*_algorithm` takes, such as history= and
        lower_order_final= of the multistep ones, kind= of UniPC, sigma_max= and rho=
        of EDM. What is left out is as the field has it: in few steps multistep
        methods fall in order at the end.

    Raises:
      ValueError: if the name is unknown (the nearest ones are given), or the solver
        does not exist for these arguments.
    """
    return look_up(name).algorithm(nfe, scheduler, grid=grid, **options)


def build(
    name: str,
    nfe: int,
    scheduler: Scheduler,
    grid: grids.GridLike | None = None,
    **options: Any,
) -> NSParams:
    """A solver by its name, as three arrays; see `algorithm`."""
    return from_solver(algorithm(name, nfe, scheduler, grid, **options), nfe)
