"""Linear multistep methods: Adams-Bashforth on any grid (eq. 52), and eq. 53."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from bns_jax import grids, scalars
from bns_jax.ns import NSParams
from bns_jax.solvers.base import History, Method
from bns_jax.solvers.options import check_distinct, check_order
from bns_jax.typing import Sample, Solver, VelocityField

_HIGHEST_ORDER = 8


@dataclasses.dataclass(frozen=True)
class AdamsBashforth(Method):
    """The method of `adams_bashforth`, whose options these are."""

    order: int = 2
    history: History = ()

    reference = "eq. 52"

    @property
    def description(self) -> str:
        """In one line."""
        return f"Adams-Bashforth of order {self.order}"

    def algorithm(
        self, nfe: int, scheduler: Any = None, grid: grids.GridLike | None = None
    ) -> Solver:
        """The integral of the polynomial through the last velocities.

        Args:
          nfe: evaluations in all.
          scheduler: not looked at.
          grid: its times, from 0 to 1; uniform if left out.

        Returns:
          algorithm(vf, x0) -> x1.

        Raises:
          ValueError: if nfe is below the order, or a time repeats.
        """
        order, nfe = check_order(self.order, _HIGHEST_ORDER, nfe)
        times = grids.times(grid, nfe)
        check_distinct(times)

        def solver(vf: VelocityField, x0: Sample) -> Sample:
            x, past = x0, list(self.history)
            for t, t_next in itertools.pairwise(times):
                past = [*past, (t, x, vf(t, x))][-order:]
                x = x + _increment(past, t_next)
            return x

        return solver


def _increment(past: History, t_next: float) -> Sample:
    """The integral up to t_next of the polynomial through the past velocities."""
    nodes = np.array([t for t, _, _ in past])
    h, powers = t_next - nodes[-1], np.arange(len(nodes))
    if h == 0:
        return 0.0
    vandermonde = ((nodes - nodes[-1]) / h) ** powers[:, None]
    weights = h * np.linalg.solve(vandermonde, 1.0 / (powers + 1.0))
    return sum(w * u for w, (_, _, u) in zip(weights, past, strict=True))


def adams_bashforth(
    nfe: int, order: int, *, grid: grids.GridLike | None = None
) -> NSParams:
    """The Adams-Bashforth method of order 1 to 8 (eq. 52), one evaluation a step.

    Args:
      nfe: steps, at least the order.
      order: from 1 (Euler) to 8; the first steps are of lower order.
      grid: of nfe steps; uniform if left out.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if the order is out of range or above nfe, the grid is not sorted in
        [0, 1], or it repeats a time.
    """
    return AdamsBashforth(order).build(nfe, grid=grid)


@dataclasses.dataclass(frozen=True)
class Multistep(Method):
    """The stationary m-step method of eq. 53, by its weights, as of `multistep`.

    The points of `history` are one step apart.
    """

    a: Sequence[float]
    b: Sequence[float]
    history: History = ()

    reference = "eq. 53"

    def __post_init__(self) -> None:
        a, b = self.a, self.b
        if len(a) < 1 or len(b) != len(a):
            raise ValueError(
                f"a and b must hold one weight per step, got {len(a)} and {len(b)} "
                "weights"
            )
        if not np.isclose(sum(a), 1.0, rtol=0, atol=1e-12):
            raise ValueError(f"a must sum to 1 for a consistent method, got {sum(a)}")
        total = 1.0 + sum(j * a_j for j, a_j in enumerate(reversed(a)))
        if not np.isclose(sum(b), total, rtol=0, atol=1e-12):
            raise ValueError(
                f"b must sum to {total:g} for a method that is consistent with "
                f"these a, got {sum(b)}"
            )

    @property
    def description(self) -> str:
        """In one line."""
        return f"stationary method of {len(self.a)} steps"

    @property
    def order(self) -> int:
        """The degree up to which a step continues polynomials exactly."""
        at = np.arange(1.0 - len(self.a), 1.0)
        for k in itertools.count(2):
            value = np.dot(self.a, at**k) + k * np.dot(self.b, at ** (k - 1))
            if not np.isclose(value, 1.0, rtol=0, atol=1e-9):
                return k - 1
        raise AssertionError("an explicit method has a finite order")

    def algorithm(
        self, nfe: int, scheduler: Any = None, grid: grids.GridLike | None = None
    ) -> Solver:
        """Steps of eq. 53 behind m - 1 of Adams-Bashforth.

        Args:
          nfe: evaluations in all.
          scheduler: not looked at.
          grid: its times, from 0 to 1; uniform if left out.

        Returns:
          algorithm(vf, x0) -> x1.

        Raises:
          ValueError: if nfe is below the steps of the method, or the steps of the grid
            differ.
        """
        m, nfe = len(self.a), scalars.nfe(nfe)
        if nfe < m:
            raise ValueError(f"a method of {m} steps needs nfe >= {m}, got {nfe}")
        times = grids.times(grid, nfe)
        lengths = np.diff(times)
        if lengths[0] == 0 or not np.allclose(lengths, lengths[0], rtol=1e-9, atol=0):
            raise ValueError(
                f"a stationary method needs equal steps, got times {times}"
            )

        def solver(vf: VelocityField, x0: Sample) -> Sample:
            x, past = x0, list(self.history)
            for t, t_next in itertools.pairwise(times):
                past = [*past, (t, x, vf(t, x))][-m:]
                if len(past) < m:
                    x = x + _increment(past, t_next)
                else:
                    h = t_next - t
                    x = sum(
                        a_j * x_j + h * b_j * u_j
                        for a_j, b_j, (_, x_j, u_j) in zip(
                            self.a, self.b, past, strict=True
                        )
                    )
            return x

        return solver


def multistep(
    nfe: int,
    a: Sequence[float],
    b: Sequence[float],
    *,
    grid: grids.GridLike | None = None,
) -> NSParams:
    """Any stationary m-step method, x_{i+1} = sum_j a_j x_j + h sum_j b_j u_j (eq. 53).

    The first m - 1 steps are Adams-Bashforth's.

    Args:
      nfe: steps.
      a: (m,), the weights of the last m points, the oldest first; they sum to 1.
      b: (m,), the weights of their velocities.
      grid: of nfe equal steps; uniform over [0, 1] if left out.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if the weights do not fit each other, the method is not consistent,
        nfe is below m, or the steps are not equal.
    """
    return Multistep(a, b).build(nfe, grid=grid)
