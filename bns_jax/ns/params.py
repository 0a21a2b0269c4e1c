"""The family of non-stationary solvers, as numbers (eq. 9-12, Prop. 3.1)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from bns_jax import scalars
from bns_jax.checks import check_arrays
from bns_jax.typing import Array


class NSParams(NamedTuple):
    """A solver as numbers (eq. 11-12).

    Attributes:
      times: (n,), non-decreasing in [0, 1]; the field is called at these.
      a: (n,), the weight of x_0 in each iterate.
      b: (n, n), lower triangular; row i holds the weights of u_0 .. u_i in x_{i+1}.
    """

    times: Array
    a: Array
    b: Array


def num_params(nfe: int) -> int:
    """The number n (n + 5) / 2: the size of the family at n evaluations (Table 3).

    Eq. 12 counts one more: t_n, at which nothing is evaluated.
    """
    nfe = scalars.nfe(nfe)
    return nfe * (nfe + 5) // 2


def validate(params: NSParams) -> None:
    """Checks the values of a solver given as concrete arrays.

    Raises:
      ValueError: if shapes disagree, an entry is not finite, times are not sorted or
        leave [0, 1], or b is not lower triangular; the message names what came.
    """
    check_shapes(params)
    times, a, b = (np.asarray(leaf, np.float64) for leaf in params)
    for name, values in (("times", times), ("a", a), ("b", b)):
        if not np.all(np.isfinite(values)):
            at = tuple(map(int, np.argwhere(~np.isfinite(values))[0]))
            raise ValueError(f"{name} must be finite, got {values[at]} at index {at}")
    if np.any(np.diff(times) < 0):
        i = int(np.argmax(np.diff(times) < 0))
        raise ValueError(
            f"times must be sorted, got {times[i]} before {times[i + 1]} at index {i}"
        )
    if times[0] < 0 or times[-1] > 1:
        raise ValueError(
            f"times must lie in [0, 1], got values from {times[0]} to {times[-1]}"
        )
    if np.any(np.triu(b, 1)):
        i, j = map(int, np.argwhere(np.triu(b, 1))[0])
        raise ValueError(
            f"b must be lower triangular, got b[{i}, {j}] = {b[i, j]} above its "
            "diagonal: x_{i+1} cannot use a velocity that is evaluated after it"
        )


def check_shapes(params: NSParams) -> None:
    """Raises ValueError unless the arrays are (n,), (n,) and (n, n)."""
    if not isinstance(params, tuple) or len(params) != 3:
        inside = "; the solver is in its .params" if hasattr(params, "params") else ""
        raise ValueError(
            "expected a solver, NSParams(times, a, b) as solvers.euler(8) gives, got "
            f"{params!r:.60}{inside}"
        )
    check_arrays(params=params)
    shapes = times, a, b = tuple(map(np.shape, params))
    if any(getattr(leaf, "dtype", np.dtype(float)).kind == "c" for leaf in params):
        raise ValueError("times, a and b must be real numbers, got complex ones")
    n = times[0] if times else 0
    if n < 1 or (times, a, b) != ((n,), (n,), (n, n)):
        raise ValueError(
            "expected times (n,), a (n,) and b (n, n) with n >= 1, got shapes "
            + ", ".join(map(str, shapes))
        )


def from_updates(times: Array, c: Array, d: Array) -> NSParams:
    """Rewrites update rules over all past points and velocities (eq. 10 to eq. 11).

    With X = (x_1 .. x_n) the rules read X = C_0 x_0 + C X + D U, C strictly lower
    triangular, so (I - C) X = C_0 x_0 + D U: Prop. 3.1 is one triangular solve.

    Args:
      times: (n,).
      c: (n, n), row i weighs x_0 .. x_i in x_{i+1}; entries above the diagonal are
        not read.
      d: (n, n), likewise for u_0 .. u_i.

    Returns:
      The solver; JAX arrays if one of the three is, else NumPy's, in their dtype.

    Raises:
      ValueError: if the shapes disagree.
    """
    shapes = tuple(map(np.shape, (times, c, d)))
    n = shapes[0][0] if shapes[0] else 0
    if n < 1 or shapes != ((n,), (n, n), (n, n)):
        raise ValueError(
            "expected times (n,), c (n, n) and d (n, n) with n >= 1, got shapes "
            + ", ".join(map(str, shapes))
        )
    xp = jnp if any(isinstance(leaf, jax.Array) for leaf in (times, c, d)) else np
    c, d = xp.tril(c), xp.tril(d)
    past = xp.concatenate([c[:, 1:], xp.zeros_like(c[:, :1])], axis=1)
    right = xp.concatenate([c[:, :1], d], axis=1)
    # Under JAX without pivots: they would let rounding move rows that come before.
    lower = partial(solve_triangular, lower=True, unit_diagonal=True)
    solve = lower if xp is jnp else np.linalg.solve
    ab = solve(xp.eye(n, dtype=c.dtype) - past, right)
    return NSParams(times, ab[:, 0], xp.tril(ab[:, 1:]))


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
    if (nfe := scalars.nfe(nfe)) < len(params.a):
        raise ValueError(
            f"expected at least the solver's {len(params.a)} evaluations, got {nfe}"
        )
    times = np.append(np.asarray(params.times, np.float64), 1.0)
    rows = np.column_stack([params.a, params.b]).astype(np.float64)
    iterates = np.concatenate([np.eye(1, len(params.a) + 1), rows])
    for _ in range(nfe - len(params.a)):
        k = int(np.argmax(np.diff(times)))
        between = (iterates[k] + iterates[k + 1]) / 2
        iterates = np.insert(iterates, k + 1, between, axis=0)
        iterates = np.insert(iterates, k + 2, 0.0, axis=1)
        times = np.insert(times, k + 1, (times[k] + times[k + 1]) / 2)
    return NSParams(times[:-1], iterates[1:, 0], iterates[1:, 1:])
