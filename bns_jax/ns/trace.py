"""The trace: from a solver written as an algorithm to its three arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax import kinds, scalars
from bns_jax.ns.params import NSParams
from bns_jax.typing import Array, Sample, Solver, Time, VelocityField

_ADAPTIVE = (
    "an adaptive algorithm, whose calls depend on the data, is no member of the family"
)


class _Calls:
    """A field that answers its j-th call with the basis vector of u_j.

    Vectors live in the span of x_0, u_0 .. u_{n-1}; row k of `basis` stands for the
    k-th of them. With the unit vectors as basis, what an algorithm hands in is its
    coefficients.
    """

    def __init__(self, basis: np.ndarray):
        self.basis = basis
        self.times: list[Time] = []
        self.inputs: list[Array] = []

    def __call__(self, t: Time, x: Array) -> Array:
        calls, nfe = len(self.times), len(self.basis) - 1
        if calls == nfe:
            raise ValueError(
                f"the algorithm must call the field exactly nfe = {nfe} times, and it "
                f"asked for one call more; {_ADAPTIVE}"
            )
        self.times.append(t)
        self.inputs.append(x)
        return self.basis[calls + 1]


def from_solver(algorithm: Solver, nfe: int) -> NSParams:
    """Traces a solver written as a plain algorithm into its three arrays.

    The algorithm is run once on x_0 = e_0 with a field that returns e_{j+1} at its
    j-th call: what it hands to the field, and what it returns, are the rows
    (a_i, b_i), and the times it asks for are T_n. This is Theorem 3.2 as a program.

    Coefficients are NumPy float64, or JAX arrays where the algorithm computes with
    traced JAX values: then `from_solver` is a differentiable map.

    Args:
      algorithm: algorithm(vf, x0) -> x1, explicit and linear in x0 and in what the
        field returns, with loops in Python; x0 is a vector.
      nfe: how often it calls the field.

    Returns:
      The solver.

    Raises:
      ValueError: if the algorithm calls the field a different number of times, first
        calls it elsewhere than at x0, or is not linear: adaptive algorithms, whose
        steps depend on the data, cannot be traced. Under a trace the values are not
        there, and only the calls are counted.
    """
    kinds.check_function("algorithm", algorithm, "algorithm(vf, x0)")
    nfe = scalars.nfe(nfe)
    times, rows = _run(algorithm, np.eye(nfe + 1))
    if not any(isinstance(value, jax.core.Tracer) for value in (times, rows)):
        _check_rows(algorithm, np.asarray(times), np.asarray(rows))
    return NSParams(times, rows[1:, 0], rows[1:, 1:])


def _run(algorithm: Solver, basis: np.ndarray) -> tuple[Array, Array]:
    """Runs an algorithm in the span of the rows of `basis`.

    Returns:
      The times it asked for (n,), and its iterates x_0 .. x_n (n + 1, n + 1).
    """
    calls, nfe = _Calls(basis), len(basis) - 1
    try:
        x1 = algorithm(calls, basis[0])
        if (called := len(calls.times)) != nfe:
            raise ValueError(
                f"the algorithm must call the field exactly nfe = {nfe} times, got "
                f"{called}; loops must be Python's (scan makes one), and {_ADAPTIVE}"
            )
        if np.shape(x1) != np.shape(basis[0]):
            shapes = f"expected {np.shape(basis[0])}, got {np.shape(x1)}"
            raise ValueError(f"the algorithm must return the shape of x0, {shapes}")
        return _stack(calls.times), _stack([*calls.inputs, x1])
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            "from_solver runs the algorithm on concrete vectors; loops and branches "
            f"under jit, scan or while_loop cannot be traced, and {_ADAPTIVE}"
        ) from error


def _check_rows(algorithm: Solver, times: np.ndarray, rows: np.ndarray) -> None:
    """Checks that the rows predict what the algorithm does on other data.

    Velocities far smaller and far larger than x_0 make a step-size controller decide
    differently.
    """
    nfe = len(rows) - 1
    if not (np.all(np.isfinite(times)) and np.all(np.isfinite(rows))):
        raise ValueError(
            "the algorithm's times and coefficients must be finite, got a value that "
            f"is not; it asked for times {times}"
        )
    if not np.allclose(rows[0], np.eye(nfe + 1)[0], rtol=0, atol=1e-12):
        raise ValueError(
            "the first call of the field must be at x0 itself, since u_0 = u(t_0, x_0) "
            f"in the family; the algorithm called it at {rows[0, 0]} x0"
        )
    rng = np.random.default_rng(0)
    for size in (1e-4, 1e4):
        basis = rng.normal(size=(nfe + 1, nfe + 1))
        basis[1:] *= size
        other_times, got = _run(algorithm, basis)
        # Algorithms that pass through float32 are known to its precision only.
        precision = 1e-9 if got.dtype == np.float64 else 1e-3
        # Rounding is relative to the largest terms met so far, which may cancel.
        largest = np.max(np.abs(rows) @ np.abs(basis), axis=1, keepdims=True)
        scale = np.maximum.accumulate(largest) + 1e-300
        error = np.abs(np.asarray(got) - rows @ basis) / scale
        if not (np.allclose(other_times, times) and np.all(error < precision)):
            raise ValueError(
                "the algorithm is not linear in x0 and the velocities, or its steps "
                "depend on the data (an adaptive algorithm): its coefficients differ "
                "between two inputs, so it is no member of the family"
            )


def _stack(values: Sequence[Any]) -> Any:
    """Stacks in NumPy, or in JAX where a value is JAX's."""
    if any(isinstance(value, jax.Array) for value in values):
        return jnp.stack(list(map(jnp.asarray, values)))
    return np.stack([np.asarray(value, np.float64) for value in values])


def as_solver(params: NSParams) -> Solver:
    """The algorithm that runs `params`, as a Python loop that can be traced again."""

    def algorithm(vf: VelocityField, x0: Sample) -> Sample:
        x, velocities = x0, []
        for t, a_i, b_i in zip(*params, strict=True):
            velocities.append(vf(t, x))
            x = a_i * x0
            for b_ij, u_j in zip(b_i, velocities, strict=False):
                x = x + b_ij * u_j
        return x

    return algorithm
