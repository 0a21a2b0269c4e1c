"""Linear multistep methods: Adams-Bashforth on any grid (eq. 52), and eq. 53."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from bns_jax import grids, scalars
from bns_jax.ns import NSParams, from_solver
from bns_jax.solvers.prediction import History, check_distinct, check_order
from bns_jax.typing import Sample, Solver, VelocityField

_HIGHEST_ORDER = 8


def adams_bashforth_algorithm(
    nfe: int,
    order: int,
    *,
    grid: grids.GridLike | None = None,
    history: History = (),
) -> Solver:
    """The method as a plain algorithm.

    Args:
      nfe: steps.
      order: from 1 (Euler) to 8.
      grid: of nfe steps; uniform if left out.
      history: points before the grid; without them the first steps are of lower order.

    Raises:
      ValueError: if the order is not in 1 .. 8 or above nfe, or a step has no length.
    """
    order, nfe = check_order(order, _HIGHEST_ORDER, nfe)
    times = grids.times(grid, nfe)
    check_distinct(times)

    def algorithm(vf: VelocityField, x0: Sample) -> Sample:
        x, past = x0, list(history)
        for t, t_next in itertools.pairwise(times):
            past = [*past, (t, x, vf(t, x))][-order:]
            x = x + _increment(past, t_next)
        return x

    return algorithm


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
    """The Adams-Bashforth method of order 1 to 8; its first steps are of lower order.

    Args:
      nfe: steps, at least the order.
      order: from 1 (Euler) to 8.
      grid: of nfe steps; uniform if left out.

    Raises:
      ValueError: if the order is out of range or above nfe, or times are repeated.
    """
    return from_solver(adams_bashforth_algorithm(nfe, order, grid=grid), nfe)


def multistep_algorithm(
    nfe: int,
    a: Sequence[float],
    b: Sequence[float],
    *,
    grid: grids.GridLike | None = None,
    history: History = (),
) -> Solver:
    """The stationary m-step method of eq. 53 as a plain algorithm.

    `history` holds points one step apart before the grid; without them the first steps
    are Adams-Bashforth's.
    """
    m = len(a)
    if m < 1 or len(b) != m:
        raise ValueError(
            f"a and b must hold one weight per step, got {m} and {len(b)} weights"
        )
    if not np.isclose(sum(a), 1.0, rtol=0, atol=1e-12):
        raise ValueError(f"a must sum to 1 for a consistent method, got {sum(a)}")
    expected = 1.0 + sum(j * a_j for j, a_j in enumerate(reversed(a)))
    if not np.isclose(sum(b), expected, rtol=0, atol=1e-12):
        raise ValueError(
            f"b must sum to {expected:g} for a method that is consistent with these "
            f"a, got {sum(b)}"
        )
    nfe = scalars.count("nfe", nfe)
    if nfe < m:
        raise ValueError(f"a method of {m} steps needs nfe >= {m}, got {nfe}")
    times = grids.times(grid, nfe)
    steps = np.diff(times)
    if steps[0] == 0 or not np.allclose(steps, steps[0], rtol=1e-9, atol=0):
        raise ValueError(f"a stationary method needs equal steps, got times {times}")

    def algorithm(vf: VelocityField, x0: Sample) -> Sample:
        x, past = x0, list(history)
        for t, t_next in itertools.pairwise(times):
            past = [*past, (t, x, vf(t, x))][-m:]
            if len(past) < m:
                x = x + _increment(past, t_next)
            else:
                h = t_next - t
                x = sum(
                    a_j * x_j + h * b_j * u_j
                    for a_j, b_j, (_, x_j, u_j) in zip(a, b, past, strict=True)
                )
        return x

    return algorithm


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

    Raises:
      ValueError: if the weights do not fit each other, the method is not consistent,
        nfe is below m, or the steps are not equal.
    """
    return from_solver(multistep_algorithm(nfe, a, b, grid=grid), nfe)
