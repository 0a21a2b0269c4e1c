"""Explicit Runge-Kutta methods (eq. 54-55): one algorithm for all tableaus."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from bns_jax import grids, kinds, scalars
from bns_jax.ns import NSParams
from bns_jax.solvers.base import Method
from bns_jax.solvers.tableaus import EULER, HEUN, MIDPOINT, RALSTON, RK3, RK4, Tableau
from bns_jax.typing import Sample, Solver, VelocityField


@dataclasses.dataclass(frozen=True)
class RungeKutta(Method):
    """The method of a tableau, as of `runge_kutta`."""

    tableau: Tableau = EULER

    reference = "eq. 54"

    @property
    def name(self) -> str:
        """In messages."""
        return self.tableau.name

    @property
    def order(self) -> int:
        """Of convergence."""
        return self.tableau.order

    @property
    def description(self) -> str:
        """In one line."""
        return self.tableau.description or self.tableau.name

    @property
    def stages(self) -> int:
        """Evaluations per step."""
        return self.tableau.stages

    def algorithm(
        self, nfe: int, scheduler: Any = None, grid: grids.GridLike | None = None
    ) -> Solver:
        """Steps on a grid of nfe / stages of them.

        Args:
          nfe: evaluations in all.
          scheduler: not looked at.
          grid: its times, from 0 to 1; uniform if left out.

        Returns:
          algorithm(vf, x0) -> x1.

        Raises:
          ValueError: if nfe is no multiple of the stages.
        """
        times = grids.times(grid, self.steps(nfe))

        def solver(vf: VelocityField, x0: Sample) -> Sample:
            x = x0
            for t, t_next in itertools.pairwise(times):
                x = _step(self.tableau, vf, t, t_next, x)
            return x

        return solver


@dataclasses.dataclass(frozen=True)
class HeunEuler(Method):
    """The method of `heun_euler`."""

    order = 2
    stages = 2
    extra = -1
    reference = "eq. 54"
    description = "Heun, Euler in the last step"

    def algorithm(
        self, nfe: int, scheduler: Any = None, grid: grids.GridLike | None = None
    ) -> Solver:
        """Steps of Heun's method, and one of Euler's.

        Args:
          nfe: evaluations in all.
          scheduler: not looked at.
          grid: its times, from 0 to 1; uniform if left out.

        Returns:
          algorithm(vf, x0) -> x1.

        Raises:
          ValueError: if nfe is even.
        """
        nfe = scalars.nfe(nfe)
        if nfe % 2 == 0:
            raise ValueError(
                "Heun's method makes two evaluations a step and one in a last step of "
                f"Euler's: nfe must be odd and positive, got {nfe}"
            )
        times = grids.times(grid, (nfe + 1) // 2)

        def solver(vf: VelocityField, x0: Sample) -> Sample:
            x = x0
            for t, t_next in itertools.pairwise(times[:-1]):
                x = _step(HEUN, vf, t, t_next, x)
            return _step(EULER, vf, times[-2], times[-1], x)

        return solver


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


def runge_kutta(
    nfe: int, tableau: Tableau, *, grid: grids.GridLike | None = None
) -> NSParams:
    """Any explicit Runge-Kutta method (eq. 54-55).

    Args:
      nfe: evaluations in all, a multiple of the number of stages.
      tableau: the method.
      grid: of nfe / stages steps; uniform if left out.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if nfe is no such multiple, or the grid is not sorted in [0, 1].
    """
    kinds.check("a tableau, such as solvers.HEUN", tableau, Tableau)
    return RungeKutta(tableau).build(nfe, grid=grid)


def euler(nfe: int, *, grid: grids.GridLike | None = None) -> NSParams:
    """Euler's method, of order 1 (eq. 54).

    Args:
      nfe: evaluations, one a step.
      grid: of nfe steps; uniform if left out.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if nfe is not positive, or the grid is not sorted in
        [0, 1].
    """
    return runge_kutta(nfe, EULER, grid=grid)


def midpoint(nfe: int, *, grid: grids.GridLike | None = None) -> NSParams:
    """The midpoint method, of order 2 (eq. 54).

    Args:
      nfe: evaluations, two a step.
      grid: of nfe / 2 steps; uniform if left out.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if nfe is no positive multiple of 2, or the grid is not sorted in
        [0, 1].
    """
    return runge_kutta(nfe, MIDPOINT, grid=grid)


def heun(nfe: int, *, grid: grids.GridLike | None = None) -> NSParams:
    """Heun's method (the explicit trapezoid), of order 2 (eq. 54).

    Args:
      nfe: evaluations, two a step.
      grid: of nfe / 2 steps; uniform if left out.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if nfe is no positive multiple of 2, or the grid is not sorted in
        [0, 1].
    """
    return runge_kutta(nfe, HEUN, grid=grid)


def heun_euler(nfe: int, *, grid: grids.GridLike | None = None) -> NSParams:
    """Heun's method whose last step is Euler's: (nfe + 1) / 2 steps.

    The field is asked nowhere at the end of the grid, where it may have no value. EDM's
    sampler on the model's own path (`edm` is the one under VE).

    Args:
      nfe: evaluations in all, an odd number.
      grid: of (nfe + 1) / 2 steps; uniform if left out.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if nfe is not odd and positive, or the grid is not sorted in [0, 1].
    """
    return HeunEuler().build(nfe, grid=grid)


def ralston(nfe: int, *, grid: grids.GridLike | None = None) -> NSParams:
    """Ralston's method, of order 2 with the least error bound (eq. 54).

    Args:
      nfe: evaluations, two a step.
      grid: of nfe / 2 steps; uniform if left out.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if nfe is no positive multiple of 2, or the grid is not sorted in
        [0, 1].
    """
    return runge_kutta(nfe, RALSTON, grid=grid)


def rk3(nfe: int, *, grid: grids.GridLike | None = None) -> NSParams:
    """Kutta's method, of order 3 (eq. 54).

    Args:
      nfe: evaluations, three a step.
      grid: of nfe / 3 steps; uniform if left out.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if nfe is no positive multiple of 3, or the grid is not sorted in
        [0, 1].
    """
    return runge_kutta(nfe, RK3, grid=grid)


def rk4(nfe: int, *, grid: grids.GridLike | None = None) -> NSParams:
    """The classical Runge-Kutta method, of order 4 (eq. 54).

    Args:
      nfe: evaluations, four a step.
      grid: of nfe / 4 steps; uniform if left out.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if nfe is no positive multiple of 4, or the grid is not sorted in
        [0, 1].
    """
    return runge_kutta(nfe, RK4, grid=grid)
