"""A solver of n evaluations as one of more: where the search for that one may start."""

from __future__ import annotations

import numpy as np

from bns_jax.ns.params import NSParams, validate


def extend(params: NSParams, nfe: int) -> NSParams:
    """Adds evaluations that a solver does not use yet, and so keeps what it computes.

    Each is made in the middle of the largest time step left, at the mean of the
    iterates around it, with the weight 0 in all that follows.

    Args:
      params: the solver, as concrete arrays.
      nfe: evaluations of the new one, at least those of the old.

    Returns:
      NumPy float64 arrays.

    Raises:
      ValueError: if `params` is no valid solver or has more than nfe evaluations.
    """
    validate(params)
    if nfe < len(params.a):
        raise ValueError(
            f"expected at least the {len(params.a)} evaluations of the solver, got "
            f"{nfe}"
        )
    times = np.append(np.asarray(params.times, np.float64), 1.0)
    x_0 = np.eye(1, len(params.a) + 1)
    rows = np.column_stack([params.a, params.b]).astype(np.float64)
    iterates = np.concatenate([x_0, rows])
    for _ in range(nfe - len(params.a)):
        k = int(np.argmax(np.diff(times)))
        between = (iterates[k] + iterates[k + 1]) / 2
        iterates = np.insert(iterates, k + 1, between, axis=0)
        iterates = np.insert(iterates, k + 2, 0.0, axis=1)
        times = np.insert(times, k + 1, (times[k] + times[k + 1]) / 2)
    return NSParams(times[:-1], iterates[1:, 0], iterates[1:, 1:])
