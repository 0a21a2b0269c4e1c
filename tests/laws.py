"""What the laws range over. A solver or scheduler added here meets every law."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from bns_jax import schedulers, solvers
from bns_jax.ns import NSParams

ALL_SCHEDULERS = {
    "cond_ot": schedulers.cond_ot(),
    "cosine": schedulers.cosine(),
    "vp": schedulers.vp(),
    "ve": schedulers.ve(),
    "alphas_cumprod": schedulers.from_alphas_cumprod(
        np.cumprod(1.0 - np.linspace(1e-3, 0.2, 100))
    ),
    "shifted": schedulers.shifted(3.0),
    "shifted_cosine": schedulers.shifted(0.5, schedulers.cosine()),
}
"""One of each kind."""

SMOOTH_SCHEDULERS = [name for name in ALL_SCHEDULERS if name != "alphas_cumprod"]
"""Those with continuous derivatives."""


class KnownSolver(NamedTuple):
    """A solver, as the laws see it.

    Attributes:
      params: params(nfe, scheduler, grid=...) -> NSParams.
      algorithm: the same arguments -> algorithm(vf, x0), and history= where it has one.
      order: of convergence.
      stages: nfe must be a multiple of it.
      least: the smallest nfe.
      history: how many exact earlier points it needs to show its order.
      exponential: it integrates the linear part of its scheduler's ODE exactly; other
        solvers know no scheduler.
    """

    params: Callable[..., NSParams]
    algorithm: Callable[..., Any]
    order: int
    stages: int = 1
    least: int = 1
    history: int = 0
    exponential: bool = False

    def nfes(self, *candidates: int) -> list[int]:
        return [n for n in candidates if n % self.stages == 0 and n >= self.least]


def _runge_kutta(solver: Any, tableau: solvers.Tableau, order: int) -> KnownSolver:
    return KnownSolver(
        params=lambda nfe, _, **options: solver(nfe, **options),
        algorithm=lambda nfe, _, **options: solvers.runge_kutta_algorithm(
            nfe, tableau, **options
        ),
        order=order,
        stages=tableau.stages,
        least=tableau.stages,
    )


def _adams_bashforth(order: int) -> KnownSolver:
    return KnownSolver(
        params=lambda nfe, _, **options: solvers.adams_bashforth(nfe, order, **options),
        algorithm=lambda nfe, _, **options: solvers.adams_bashforth_algorithm(
            nfe, order, **options
        ),
        order=order,
        least=order,
        history=order - 1 if order > 2 else 0,
    )


def _dpm_solver_pp(order: int) -> KnownSolver:
    return KnownSolver(
        params=lambda nfe, scheduler, **options: solvers.dpm_solver_pp(
            nfe, scheduler, order, **options
        ),
        algorithm=lambda nfe, scheduler, **options: solvers.dpm_solver_pp_algorithm(
            nfe, scheduler, order, **options
        ),
        order=order,
        least=order,
        exponential=True,
    )


ALL_SOLVERS = {
    "euler": _runge_kutta(solvers.euler, solvers.EULER, 1),
    "midpoint": _runge_kutta(solvers.midpoint, solvers.MIDPOINT, 2),
    "heun": _runge_kutta(solvers.heun, solvers.HEUN, 2),
    "rk4": _runge_kutta(solvers.rk4, solvers.RK4, 4),
    "adams_bashforth_1": _adams_bashforth(1),
    "adams_bashforth_2": _adams_bashforth(2),
    "adams_bashforth_3": _adams_bashforth(3),
    "adams_bashforth_4": _adams_bashforth(4),
    "ddim": KnownSolver(solvers.ddim, solvers.ddim_algorithm, 1, exponential=True),
    "dpm_solver_pp_1": _dpm_solver_pp(1),
    "dpm_solver_pp_2": _dpm_solver_pp(2),
}

GENERIC = [name for name, known in ALL_SOLVERS.items() if not known.exponential]
EXPONENTIAL = [name for name, known in ALL_SOLVERS.items() if known.exponential]


def run(params: NSParams, vf: Callable[..., Any], x0: np.ndarray) -> np.ndarray:
    """Every iterate of eq. 11, one term after another, in NumPy."""
    times, a, b = map(np.asarray, params)
    x, velocities, iterates = x0, [], []
    for i in range(len(times)):
        velocities.append(np.asarray(vf(times[i], x)))
        x = a[i] * x0
        for j in range(i + 1):
            x = x + b[i, j] * velocities[j]
        iterates.append(x)
    return np.stack(iterates)


def random_params(rng: np.random.Generator, nfe: int) -> NSParams:
    """Any member of the family, of moderate size."""
    return NSParams(
        np.sort(rng.uniform(size=nfe)),
        1.0 + 0.3 * rng.normal(size=nfe),
        np.tril(rng.normal(size=(nfe, nfe))) / nfe,
    )


def assert_close(got: Any, expected: Any, tolerance: float) -> None:
    """Equal to within `tolerance`, relative to the largest entry expected."""
    expected = np.asarray(expected)
    size = max(1.0, float(np.max(np.abs(expected))))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * size)


@contextlib.contextmanager
def count_compilations() -> Iterator[list[str]]:
    """Collects one entry for each program that XLA compiles meanwhile."""
    compiled: list[str] = []

    def listen(event: str, _: float, **__: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
