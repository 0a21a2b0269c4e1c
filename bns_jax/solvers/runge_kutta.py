"""Explicit Runge-Kutta methods (eq. 54-55): a tableau, and one algorithm for all."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from bns_jax import grids, scalars
from bns_jax.ns import NSParams, from_solver
from bns_jax.typing import Sample, Solver, VelocityField


@dataclasses.dataclass(frozen=True)
class Tableau:
    """A Butcher tableau, which checks itself.

    Attributes:
      name: for messages.
      a: row j weighs the velocities of stages 0 .. j - 1 in stage j.
      b: the weights of all stages in the step; they sum to 1.
    """

    name: str
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]

    def __post_init__(self) -> None:
        if [len(row) for row in self.a] != list(range(len(self.b))):
            raise ValueError(
                f"{self.name}: an explicit tableau of {len(self.b)} stages has rows of "
                f"0, 1, .. entries, got {[len(row) for row in self.a]}"
            )
        if not np.isclose(sum(self.b), 1.0, rtol=0, atol=1e-12):
            raise ValueError(f"{self.name}: b must sum to 1, got {sum(self.b)}")

    @property
    def c(self) -> tuple[float, ...]:
        """The nodes, c_j = sum_k a_jk."""
        return tuple(float(sum(row)) for row in self.a)

    @property
    def stages(self) -> int:
        """Evaluations per step."""
        return len(self.b)


EULER = Tableau("euler", a=((),), b=(1.0,))
MIDPOINT = Tableau("midpoint", a=((), (1 / 2,)), b=(0.0, 1.0))
HEUN = Tableau("heun", a=((), (1.0,)), b=(1 / 2, 1 / 2))
RALSTON = Tableau("ralston", a=((), (2 / 3,)), b=(1 / 4, 3 / 4))
RK3 = Tableau("rk3", a=((), (1 / 2,), (-1.0, 2.0)), b=(1 / 6, 2 / 3, 1 / 6))
RK4 = Tableau(
    "rk4",
    a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
)


def runge_kutta_algorithm(
    nfe: int, tableau: Tableau, *, grid: grids.GridLike | None = None
) -> Solver:
    """The method on a grid of nfe / stages steps, as a plain algorithm.

    Raises:
      ValueError: if nfe is not a positive multiple of the number of stages.
    """
    nfe = scalars.count("nfe", nfe)
    if nfe % tableau.stages:
        raise ValueError(
            f"{tableau.name} takes {tableau.stages} evaluations per step: nfe must be "
            f"a positive multiple of {tableau.stages}, got {nfe}"
        )
    times = grids.times(grid, nfe // tableau.stages)

    def algorithm(vf: VelocityField, x0: Sample) -> Sample:
        x = x0
        for t, t_next in itertools.pairwise(times):
            x = _step(tableau, vf, t, t_next, x)
        return x

    return algorithm


def _step(
    tableau: Tableau, vf: VelocityField, t: float, t_next: float, x: Sample
) -> Sample:
    """One step of the method."""
    h = t_next - t
    k: list[Sample] = []
    for c_j, a_j in zip(tableau.c, tableau.a, strict=True):
        xi = x + h * sum(a * u for a, u in zip(a_j, k, strict=True))
        k.append(vf(t + c_j * h, xi))
    return x + h * sum(b * u for b, u in zip(tableau.b, k, strict=True))


def heun_euler_algorithm(nfe: int, *, grid: grids.GridLike | None = None) -> Solver:
    """Heun's method whose last step is Euler's, as a plain algorithm.

    Raises:
      ValueError: if nfe is not odd and positive.
    """
    nfe = scalars.count("nfe", nfe)
    if nfe % 2 == 0:
        raise ValueError(
            "Heun's method makes two evaluations a step and one in a last step of "
            f"Euler's: nfe must be odd and positive, got {nfe}"
        )
    times = grids.times(grid, (nfe + 1) // 2)

    def algorithm(vf: VelocityField, x0: Sample) -> Sample:
        x = x0
        for t, t_next in itertools.pairwise(times[:-1]):
            x = _step(HEUN, vf, t, t_next, x)
        return _step(EULER, vf, times[-2], times[-1], x)

    return algorithm


def runge_kutta(
    nfe: int, tableau: Tableau, *, grid: grids.GridLike | None = None
) -> NSParams:
    """Any explicit Runge-Kutta method.

    Args:
      nfe: evaluations in all, a multiple of the number of stages.
      tableau: the method.
      grid: of nfe / stages steps; uniform if left out.

    Raises:
      ValueError: if nfe is no such multiple, or the grid is not sorted in [0, 1].
    """
    return from_solver(runge_kutta_algorithm(nfe, tableau, grid=grid), nfe)


def euler(nfe: int, *, grid: grids.GridLike | None = None) -> NSParams:
    """Euler's method, of order 1: nfe steps."""
    return runge_kutta(nfe, EULER, grid=grid)


def midpoint(nfe: int, *, grid: grids.GridLike | None = None) -> NSParams:
    """The midpoint method, of order 2: nfe / 2 steps."""
    return runge_kutta(nfe, MIDPOINT, grid=grid)


def heun(nfe: int, *, grid: grids.GridLike | None = None) -> NSParams:
    """Heun's method (the explicit trapezoid), of order 2: nfe / 2 steps."""
    return runge_kutta(nfe, HEUN, grid=grid)


def heun_euler(nfe: int, *, grid: grids.GridLike | None = None) -> NSParams:
    """Heun's method whose last step is Euler's: (nfe + 1) / 2 steps.

    The field is asked nowhere at the end of the grid, where it may have no value. EDM's
    sampler on the model's own path (`edm` is the one under VE).

    Args:
      nfe: evaluations in all, an odd number.
      grid: of (nfe + 1) / 2 steps; uniform if left out.

    Raises:
      ValueError: if nfe is not odd and positive, or the grid is not sorted in [0, 1].
    """
    return from_solver(heun_euler_algorithm(nfe, grid=grid), nfe)


def ralston(nfe: int, *, grid: grids.GridLike | None = None) -> NSParams:
    """Ralston's method, of order 2 with the least error bound: nfe / 2 steps."""
    return runge_kutta(nfe, RALSTON, grid=grid)


def rk3(nfe: int, *, grid: grids.GridLike | None = None) -> NSParams:
    """Kutta's third-order method: nfe / 3 steps."""
    return runge_kutta(nfe, RK3, grid=grid)


def rk4(nfe: int, *, grid: grids.GridLike | None = None) -> NSParams:
    """The classical Runge-Kutta method, of order 4: nfe / 4 steps."""
    return runge_kutta(nfe, RK4, grid=grid)
