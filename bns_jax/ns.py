"""The family of non-stationary solvers, its sampler, and the trace into it.

Section 3.1 and Prop. 3.1 of arXiv:2403.01329: every explicit solver that calls the
velocity field n times is, after unrolling, three arrays,

    x_{i+1} = a_i x_0 + sum_{j <= i} b_ij u_j,    u_j = u(t_j, x_j),    i = 0 .. n-1.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bns_jax.pytree import as_pytree
from bns_jax.typing import Array, Sample, Solver, Time, VelocityField, wider


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
    """N (n + 5) / 2, the size of the family at n evaluations (Table 3).

    Eq. 12 counts one more: t_n, at which nothing is evaluated.
    """
    return nfe * (nfe + 5) // 2


def validate(params: NSParams) -> None:
    """Checks the values of a solver given as concrete arrays.

    Raises:
      ValueError: if shapes disagree, an entry is not finite, times are not sorted or
        leave [0, 1], or b is not lower triangular; the message names what came.
    """
    _check_shapes(params)
    times, a, b = (np.asarray(leaf, np.float64) for leaf in params)
    for name, values in (("times", times), ("a", a), ("b", b)):
        if not np.all(np.isfinite(values)):
            where = tuple(map(int, np.argwhere(~np.isfinite(values))[0]))
            raise ValueError(
                f"{name} must be finite, got {values[where]} at index {where}"
            )
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


def sample(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    """Runs a solver: x_n of Algorithm 1.

    The field is traced once, whatever the number of evaluations. Give the weights of
    a network through `jax.tree_util.Partial(apply, weights)`: they are then arguments
    of the compiled program, so that new weights compile nothing.

    Works under jit, vmap, grad, `jax.shard_map` and explicit meshes. Differentiating
    stores one iterate per evaluation and recomputes the field.

    Args:
      params: the solver; coefficients keep their dtype whatever that of x0.
      vf: the velocity field, called as vf(t, x, *args) with a scalar t: of the dtype
        of x, or float32 where x is of 16 bits. It returns the tree, the shapes and
        the dtypes of x, or the dtypes that x and t promote to.
      x0: noise, a pytree of floating-point arrays; batch axes are its own affair.
      *args: conditioning, a pytree each, handed to `vf` unchanged.

    Returns:
      The sample, like x0 in tree, shapes, dtypes and sharding.

    Raises:
      ValueError: if the arrays of `params` have shapes that disagree, x0 has a leaf
        that is not of a floating-point dtype, or the field returns something else.
    """
    return _sample(params, as_pytree(vf), x0, *args)


def sample_path(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    """Like `sample`, but returns every iterate.

    Returns:
      x_1 .. x_n stacked on a new leading axis.
    """
    return _sample_path(params, as_pytree(vf), x0, *args)


@jax.jit
def _sample(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    Y = _iterates(params, vf, x0, *args)
    return jax.tree.map(lambda x, y: y[-1].astype(x.dtype), x0, Y)


@jax.jit
def _sample_path(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    Y = _iterates(params, vf, x0, *args)
    return jax.tree.map(lambda x, y: y.astype(x.dtype), x0, Y)


def _iterates(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    """All iterates x_1 .. x_n, accumulated by columns.

    The carry holds the future iterates Y; each call adds its column, Y += b_j (x) u_j,
    and x_{j+1} = Y[j] is complete by then. The other form, which contracts row i of b
    with the stored velocities, would have a backward pass of O(n^2) memory.
    """
    _check_shapes(params)
    times, a, b = map(jnp.asarray, params)
    x0 = jax.tree.map(_as_floating, x0)
    t_dtype = wider(jnp.float32, *(x.dtype for x in jax.tree.leaves(x0)))

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def column(vf, args, t, b_j, x):  # type: ignore[no-untyped-def]
        u = vf(t, x, *args)
        check_velocity(u, x, t)
        return jax.tree.map(lambda x, u: _outer(b_j, u, x.dtype), x, u)

    def step(carry, inputs):  # type: ignore[no-untyped-def]
        Y, x = carry
        j, t_j, b_j = inputs
        Y = jax.tree.map(jnp.add, Y, column(vf, args, t_j, b_j, x))
        x = jax.tree.map(
            lambda x, y: lax.dynamic_index_in_dim(y, j, keepdims=False).astype(x.dtype),
            x,
            Y,
        )
        return (Y, x), None

    # Y starts from x0, never from fresh zeros, and so inherits its sharding.
    Y = jax.tree.map(lambda x: _outer(a, x, x.dtype), x0)
    inputs = (jnp.arange(len(a)), times.astype(t_dtype), b.T)
    (Y, _), _ = lax.scan(step, (Y, x0), inputs)
    return Y


def _outer(coefficients: Array, x: Array, dtype: Any) -> Array:
    """Coefficients (x) x in the wider of the coefficients' dtype and `dtype`."""
    wide = wider(coefficients.dtype, dtype)
    column = coefficients.astype(wide).reshape((-1,) + (1,) * x.ndim)
    return column * x.astype(wide)[None]


def _as_floating(x: Any) -> Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"every leaf of x0 must be of a floating-point dtype, got {x.dtype}"
        )
    return x


def _check_shapes(params: NSParams) -> None:
    shapes = times, a, b = tuple(map(np.shape, params))
    n = times[0] if times else 0
    if n < 1 or (times, a, b) != ((n,), (n,), (n, n)):
        raise ValueError(
            "expected times (n,), a (n,) and b (n, n) with n >= 1, got shapes "
            + ", ".join(map(str, shapes))
        )


def check_velocity(u: Sample, x: Sample, t: Array) -> None:
    """Checks what a field returned; runs while tracing.

    Raises:
      ValueError: naming the leaf, what was expected of it, and what came.
    """
    trees = jax.tree.structure(u), jax.tree.structure(x)
    if not trees[0] == trees[1]:  # type: ignore[operator]
        raise ValueError(
            f"the velocity field must return the tree of x, {trees[1]}, got {trees[0]}"
        )
    paths = jax.tree_util.tree_leaves_with_path(u)
    for (path, u_leaf), x_leaf in zip(paths, jax.tree.leaves(x), strict=True):
        where = jax.tree_util.keystr(path) or "x"
        if np.shape(u_leaf) != x_leaf.shape:
            raise ValueError(
                f"the velocity field must return the shape of x: at {where} expected "
                f"{x_leaf.shape}, got {np.shape(u_leaf)}"
            )
        dtype = jnp.result_type(u_leaf)
        if dtype not in (x_leaf.dtype, wider(x_leaf.dtype, t.dtype)):
            raise ValueError(
                f"the velocity field must return the dtype of x: at {where} expected "
                f"{x_leaf.dtype}, got {dtype}"
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
                "asked for one call more; an adaptive algorithm, whose calls depend on "
                "the data, is no member of the family"
            )
        self.times.append(t)
        self.inputs.append(x)
        return self.basis[calls + 1]


def from_solver(algorithm: Solver, nfe: int) -> NSParams:
    """Traces a solver written as a plain algorithm into its three arrays.

    The algorithm is run once on x_0 = e_0 with a field that returns e_{j+1} at its
    j-th call: what it hands to the field, and what it returns, are the rows
    (a_i, b_i), and the times it asks for are T_n. This is Theorem 3.2, computed.

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
        steps depend on the data, cannot be traced.
    """
    if nfe < 1:
        raise ValueError(f"nfe must be at least 1, got {nfe}")
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
        if len(calls.times) != nfe:
            raise ValueError(
                f"the algorithm must call the field exactly nfe = {nfe} times, got "
                f"{len(calls.times)} calls; loops must be Python's (scan and "
                "while_loop call it once), and an adaptive algorithm, whose calls "
                "depend on the data, is no member of the family"
            )
        if np.shape(x1) != np.shape(basis[0]):
            raise ValueError(
                "the algorithm must return a sample of the shape of x0, expected "
                f"{np.shape(basis[0])}, got {np.shape(x1)}"
            )
        return _stack(calls.times), _stack([*calls.inputs, x1])
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            "from_solver runs the algorithm on concrete vectors; loops and branches "
            "under jit, scan or while_loop cannot be traced, and adaptive algorithms "
            "are no members of the family"
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
        scale = np.abs(rows) @ np.abs(basis) + 1e-300
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


def from_updates(times: Array, c: Array, d: Array) -> NSParams:
    """Rewrites update rules over all past points and velocities (eq. 10 to eq. 11).

    With X = (x_1 .. x_n) the rules read X = C_0 x_0 + C X + D U, C strictly lower
    triangular, so (I - C) X = C_0 x_0 + D U: Prop. 3.1 is one triangular solve.

    Args:
      times: (n,).
      c: (n, n), row i weighs x_0 .. x_i in x_{i+1}; entries above the diagonal are
        not read.
      d: (n, n), likewise for u_0 .. u_i.

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
    ab = xp.linalg.solve(xp.eye(n, dtype=c.dtype) - past, right)
    return NSParams(times, ab[:, 0], xp.tril(ab[:, 1:]))
