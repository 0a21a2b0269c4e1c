"""A solver as one differentiable function, whose adjoint runs in a single buffer.

With u_j = u(t_j, x_j) and J_j its Jacobian in x, eq. 11 and its adjoint are

    x_{i+1} = a_i x_0 + sum_{j<=i} b_ij u_j                       i = 0 .. n-1
    lambda_j = J_j^T mu_j,  mu_j = sum_{i>=j} b_ij lambda_{i+1}   j = n-1 .. 0

where lambda_j is the cotangent of x_j, and lambda_n is given. Step j of the adjoint is
the last to need x_j and the first to know lambda_j, so one buffer of n iterates is
enough: x up to j, lambda beyond. Reverse mode through the loop would hold n of each.

Forward mode runs dx_{i+1} = d(a_i x_0) + sum_{j<=i} d(b_ij u_j) after eq. 11, and so
evaluates the field once more at each x_j. Second derivatives are left to JAX, which
differentiates these equations as they stand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from bns_jax.ns.params import NSParams
from bns_jax.typing import Array, Sample, wider

Velocity = Callable[[list[Any], Array, Sample], Sample]
"""velocity(given, t, x): a field as a function of all arrays that it reads."""


def end(velocity: Velocity, params: NSParams, x0: Sample, given: list[Any]) -> Sample:
    """x_n; differentiating stores one iterate per evaluation.

    Args:
      velocity: closes over no tracer.
      params: the solver, of floating-point dtypes.
      x0: noise.
      given: the first argument of `velocity`, arrays of any dtypes.
    """

    @jax.custom_jvp
    def solve(params: NSParams, x0: Sample, given: list[Any]) -> Sample:
        return _last(iterates(velocity, params, x0, given)[0], x0)

    @functools.partial(solve.defjvp, symbolic_zeros=True)
    def _(primals: Any, tangents: Any) -> tuple[Sample, Sample]:
        # Here, so that `import bns_jax` does not load jax.extend, and Pallas with it.
        from bns_jax.ns.linear import with_transpose

        params, x0, given = primals
        Y, _ = iterates(velocity, params, x0, given)
        d_params, dx0 = jax.tree.map(_instantiated, (params, x0), tangents[:2])
        d_given = [None if _is_zero(leaf) else leaf for leaf in tangents[2]]
        dx = with_transpose(
            functools.partial(_tangent, velocity),
            functools.partial(_adjoint, velocity),
            (params, x0, *_divided(given, d_given), Y),
            (d_params, dx0, d_given),
        )
        return _last(Y, x0), dx

    return solve(params, x0, given)


def iterates(
    velocity: Velocity,
    params: NSParams,
    x0: Sample,
    given: list[Any],
    keep_velocities: bool = False,
) -> tuple[Sample, Sample | None]:
    """All iterates x_1 .. x_n, accumulated by columns; all velocities if asked for.

    The carry holds the future iterates Y; each call adds its column, Y += b_j (x) u_j,
    and x_{j+1} = Y[j] is complete by then. The other form, which contracts row i of b
    with the stored velocities, would have a backward pass of O(n^2) memory.
    """

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def column(given, j, t_j, b_j, x):  # type: ignore[no-untyped-def]
        u = velocity(given, t_j, x)
        return _outer(_from(j, b_j), u, x), u

    def step(carry, inputs):  # type: ignore[no-untyped-def]
        Y, x = carry
        j, t_j = inputs
        added, u = column(given, j, t_j, params.b[:, j], x)
        Y = jax.tree.map(jnp.add, Y, added)
        return (Y, _cast(_row(Y, j), x)), u if keep_velocities else None

    (Y, _), U = lax.scan(step, (_start(params.a, x0), x0), _calls(params))
    return Y, U


def _tangent(velocity, residuals, tangents):  # type: ignore[no-untyped-def]
    """dx_n, accumulated by columns again."""
    params, x0, moving, fixed, Y = residuals
    d_params, dx0, d_given = tangents

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def d_column(j, t_j, tangents):  # type: ignore[no-untyped-def]
        point = moving, t_j, params.b[:, j], _before(Y, j, x0)
        return jax.jvp(_column(velocity, fixed, j), point, tangents)[1]

    def step(carry, inputs):  # type: ignore[no-untyped-def]
        dY, dx = carry
        j, t_j, dt_j = inputs
        added = d_column(j, t_j, (d_given, dt_j, d_params.b[:, j], dx))
        dY = jax.tree.map(jnp.add, dY, added)
        return (dY, _cast(_row(dY, j), dx)), None

    _, dY = jax.jvp(_start, (params.a, x0), (d_params.a, dx0))
    (dY, _), _ = lax.scan(step, (dY, dx0), (*_calls(params), d_params.times))
    return _last(dY, x0)


def _adjoint(velocity, residuals, lam):  # type: ignore[no-untyped-def]
    """The cotangents of params, x_0 and what moves of `given`, from that of x_n."""
    params, x0, moving, fixed, Y = residuals

    def step(carry, inputs):  # type: ignore[no-untyped-def]
        Z, lam, sums = carry  # Row i of Z: x_{i+1}, and lambda_{i+1} where i > j.
        j, t_j, a_j = inputs
        lam = _cast(lam, Z)
        Z = jax.tree.map(functools.partial(_with_row, j), Z, lam)
        _, pull = jax.vjp(_scaled, a_j, _cast(x0, Z))
        ct_a_j, ct_x0 = pull(lam)
        point = moving, t_j, params.b[:, j], _before(Z, j, x0)
        _, pull = jax.vjp(_column(velocity, fixed, j), *point)
        ct_moving, ct_t_j, ct_b_j, lam = pull(Z)
        sums = jax.tree.map(jnp.add, sums, (ct_x0, ct_moving))
        return (Z, lam, sums), (ct_t_j, ct_a_j, ct_b_j)

    zeros = jax.tree.map(jnp.zeros_like, (_cast(x0, Y), moving))
    (_, lam, (ct_x0, ct_moving)), (times, a, columns) = lax.scan(
        step, (Y, lam, zeros), (*_calls(params), params.a), reverse=True
    )
    ct_x0 = jax.tree.map(jnp.add, ct_x0, _cast(lam, ct_x0))
    return NSParams(times, a, columns.T), _cast(ct_x0, x0), ct_moving


def pull_all(
    velocity: Velocity,
    params: NSParams,
    x0: Sample,
    given: list[Any],
    Y: Sample,
    lam: Sample,
) -> NSParams:
    """The cotangents of params, for several of x_n at once.

    The field is evaluated once at each iterate, for all of them. That takes the
    iterates and all lambda_j apart: no buffer can be both for several.

    Args:
      velocity: of the solver.
      params: the solver.
      x0: noise.
      given: the first argument of `velocity`.
      Y: all iterates.
      lam: (S, ...), cotangents of x_n.

    Returns:
      Arrays with a leading axis S.
    """

    def step(carry, inputs):  # type: ignore[no-untyped-def]
        L, lam = carry  # Row i of L: lambda_{i+1}, where i >= j.
        j, t_j = inputs
        put = jax.vmap(functools.partial(_with_row, j))
        L = jax.tree.map(put, L, _cast(lam, L))
        column = functools.partial(_column(velocity, given, j), [None] * len(given))
        _, pull = jax.vjp(column, t_j, params.b[:, j], _before(Y, j, x0))
        ct_t_j, ct_b_j, lam = jax.vmap(pull)(L)
        return (L, lam), (ct_t_j, ct_b_j)

    L = jax.vmap(lambda _: jax.tree.map(jnp.zeros_like, Y))(lam)
    carry = L, _cast(lam, x0)
    (L, _), (times, columns) = lax.scan(step, carry, _calls(params), reverse=True)
    _, pull = jax.vjp(lambda a: _start(a, x0), params.a)
    (a,) = jax.vmap(pull)(L)
    return NSParams(times.T, a, columns.transpose(1, 2, 0))


def _start(a: Array, x0: Sample) -> Sample:
    """Y before the first call: from x0, never from fresh zeros, for its sharding."""
    return _outer(a, x0, x0)


def _calls(params: NSParams) -> tuple[Array, Array]:
    """The numbers j and the times t_j of all calls."""
    return jnp.arange(len(params.a)), params.times


def _column(velocity: Velocity, fixed: list[Any], j: Array) -> Callable[..., Sample]:
    """What call j adds, b_j (x) u_j, as a function of what moves."""

    def column(moving: list[Any], t_j: Array, b_j: Array, x: Sample) -> Sample:
        pairs = zip(moving, fixed, strict=True)
        given = [stays if moves is None else moves for moves, stays in pairs]
        return _outer(_from(j, b_j), velocity(given, t_j, x), x)

    return column


def _divided(given: list[Any], tangents: list[Any]) -> tuple[list[Any], list[Any]]:
    """The arrays that have a tangent, and the others; None at the others' places."""
    pairs = list(zip(given, tangents, strict=True))
    moving = [None if tangent is None else leaf for leaf, tangent in pairs]
    return moving, [leaf if tangent is None else None for leaf, tangent in pairs]


def _from(j: Array, b_j: Array) -> Array:
    """Column j of b, from the diagonal on: the iterates up to x_j are complete."""
    return jnp.where(jnp.arange(len(b_j)) >= j, b_j, jnp.zeros_like(b_j))


def _outer(coefficients: Array, u: Sample, x: Sample) -> Sample:
    """The outer product with u, in the wider of the coefficients' dtype and x's."""

    def outer(u: Array, x: Array) -> Array:
        wide = wider(coefficients.dtype, x.dtype)
        column = coefficients.astype(wide).reshape((-1,) + (1,) * u.ndim)
        return column * u.astype(wide)[None]

    return jax.tree.map(outer, u, x)


def _scaled(a: Array, x: Sample) -> Sample:
    return jax.tree.map(lambda x: a.astype(x.dtype) * x, x)


def _row(Y: Sample, j: Array) -> Sample:
    """x_{j+1}."""
    return jax.tree.map(lambda y: lax.dynamic_index_in_dim(y, j, keepdims=False), Y)


def _with_row(j: Array, y: Array, row: Array) -> Array:
    return lax.dynamic_update_index_in_dim(y, row, j, axis=0)


def _before(Y: Sample, j: Array, x0: Sample) -> Sample:
    """x_j."""
    row = _cast(_row(Y, j - 1), x0)
    return jax.tree.map(functools.partial(lax.select, j > 0), row, x0)


def _last(Y: Sample, like: Sample) -> Sample:
    """x_n."""
    return _cast(jax.tree.map(lambda y: y[-1], Y), like)


def _cast(x: Sample, like: Sample) -> Sample:
    return jax.tree.map(lambda x, like: x.astype(like.dtype), x, like)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _instantiated(primal: Array, tangent: Any) -> Array:
    return jnp.zeros_like(primal) if _is_zero(tangent) else tangent
