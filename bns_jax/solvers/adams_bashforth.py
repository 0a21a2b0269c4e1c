"""Adams-Bashforth methods on any grid (eq. 52, with variable steps)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from bns_jax import grids
from bns_jax.ns import NSParams, from_solver
from bns_jax.typing import Sample, Solver, VelocityField

_MAX_ORDER = 4


def adams_bashforth_algorithm(
    nfe: int,
    order: int,
    *,
    grid: grids.GridLike | None = None,
    history: Sequence[tuple[float, Sample]] = (),
) -> Solver:
    """The method as a plain algorithm.

    Args:
      nfe: steps.
      order: from 1 (Euler) to 4.
      grid: of nfe steps; uniform if left out.
      history: (time, velocity) of points before the grid, oldest first. Without them
        the first steps are of lower order.

    Raises:
      ValueError: if the order is not in 1 .. 4 or above nfe, or a step has no length.
    """
    if not 1 <= order <= _MAX_ORDER:
        raise ValueError(f"order must be from 1 to {_MAX_ORDER}, got {order}")
    if nfe < order:
        raise ValueError(f"order {order} needs nfe >= {order}, got {nfe}")
    times = grids.times(grid, nfe)
    if np.any(np.diff(times) == 0):
        raise ValueError(f"multistep methods need distinct times, got {times}")

    def algorithm(vf: VelocityField, x0: Sample) -> Sample:
        x, past = x0, list(history)
        for t, t_next in itertools.pairwise(times):
            past = [*past, (t, vf(t, x))][-order:]
            nodes = np.array([node for node, _ in past])
            weights = _weights(nodes, t, t_next)
            x = x + sum(w * u for w, (_, u) in zip(weights, past, strict=True))
        return x

    return algorithm


def _weights(nodes: np.ndarray, t: float, t_next: float) -> np.ndarray:
    """Integrals over [t, t_next] of the Lagrange polynomials on `nodes`."""
    h, powers = t_next - t, np.arange(len(nodes))
    vandermonde = ((nodes - t) / h) ** powers[:, None]
    return h * np.linalg.solve(vandermonde, 1.0 / (powers + 1.0))


def adams_bashforth(
    nfe: int, order: int, *, grid: grids.GridLike | None = None
) -> NSParams:
    """The Adams-Bashforth method of order 1 to 4; its first steps are of lower order.

    Args:
      nfe: steps, at least the order.
      order: from 1 (Euler) to 4.
      grid: of nfe steps; uniform if left out.

    Raises:
      ValueError: if the order is out of range or above nfe, or times are repeated.
    """
    return from_solver(adams_bashforth_algorithm(nfe, order, grid=grid), nfe)
