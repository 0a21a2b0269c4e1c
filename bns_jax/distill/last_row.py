"""The last row of a solver by weighted least squares.

x_n = a_{n-1} x_0 + sum_j b_{n-1,j} u_j is linear in it, so once the velocities of a
batch are known, the best last row is found without another call of the field.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bns_jax import ns
from bns_jax.distill.algebra import in_double, jacobian
from bns_jax.distill.batch import Batch
from bns_jax.distill.optimizer import Goal
from bns_jax.distill.residuals import Weighted, flat, unflat, weigh
from bns_jax.ns import NSParams

_ROUNDS = 2


class _Freedom(NamedTuple):
    """How a family moves its last row (a_{n-1}, b_{n-1}) with the rest unchanged.

    Attributes:
      basis: (n + 1, k), orthonormal columns, or zeros where there are fewer than k.
      lift: (p, k), the step of theta that moves the row along each of them.
    """

    basis: jax.Array
    lift: jax.Array


def refit(goal: Goal, theta: Any, double: bool) -> tuple[Any, jax.Array]:
    """Runs the solver on a batch and fits its last row.

    Args:
      goal: whose loss is minimized, by least squares that are weighted twice.
      theta: of any family; it comes back as it is where no number of it moves the last
        row alone.
      double: whether the algebra runs in float64.

    Returns:
      theta, and the loss of the batch there: one forward run is all that it costs.
    """
    params = goal.to_params(theta)

    def run(batch: Batch) -> tuple[jax.Array, jax.Array]:
        """x_n, (batch, d), and what it is a sum of, x_0 and all u_j."""
        x_n, u = ns.sample_velocities(params, goal.vf, batch.x0, *batch.args)
        u = jnp.moveaxis(flat(u, 2), 0, 1)
        return flat(x_n), jnp.concatenate([flat(batch.x0)[:, None], u], axis=1)

    x_n, columns = goal.map(run, goal.batch)
    freedom, start = _freedom(goal, theta), _last_row(params)
    point, unravel = ravel_pytree(theta)
    fit = in_double(_least_squares, double)

    def lift(moved: jax.Array) -> Any:
        return unravel(point + jnp.dot(freedom.lift, moved, precision="highest"))

    def measure(moved: jax.Array) -> tuple[jax.Array, Weighted]:
        step = (_last_row(goal.to_params(lift(moved))) - start).astype(x_n.dtype)
        x = x_n + jnp.einsum("snd,n->sd", columns, step, precision="highest")
        batch = goal.batch
        weighted = weigh(goal.objective.loss, unflat(x, batch.x1), batch)
        return goal.mean(weighted.loss), weighted

    moved = jnp.zeros_like(freedom.lift[0])
    loss, weighted = measure(moved)
    best, lowest = moved, loss
    for _ in range(_ROUNDS):
        step = fit(columns, freedom.basis, goal.batch.weights, weighted)
        moved = moved + step.astype(moved.dtype)
        loss, weighted = measure(moved)
        best = jnp.where(loss < lowest, moved, best)
        lowest = jnp.fmin(loss, lowest)
    return lift(best), lowest


def _least_squares(
    columns: jax.Array, basis: jax.Array, weights: jax.Array, weighted: Weighted
) -> jax.Array:
    """The step that minimises sum_s w_s c_s ||r_s + columns_s basis step||^2."""
    columns = jnp.einsum("snd,nk->skd", columns, basis)
    pull = jnp.einsum("skd,sd,s->k", columns, weighted.slope, weights)
    gram = jnp.einsum("skd,sld,s->kl", columns, columns, weights * weighted.curvature)
    diagonal = jnp.diag(gram)
    scale = jnp.where(diagonal > 0, 1 / jnp.sqrt(jnp.abs(diagonal)), 0.0)
    ridge = 16 * len(gram) * jnp.finfo(gram.dtype).eps
    scaled = gram * scale[:, None] * scale[None]
    scaled = scaled + ridge * jnp.eye(len(gram), dtype=gram.dtype)
    return -scale * jnp.linalg.solve(scaled, scale * pull)


def _last_row(params: NSParams) -> jax.Array:
    return jnp.append(params.a[-1], params.b[-1])


def _freedom(goal: Goal, theta: Any) -> _Freedom:
    """Which numbers of theta move the last row and nothing else."""

    def last_row_at_end(theta: Any) -> Any:
        times, a, b = params = goal.to_params(theta)
        return (times, a[:-1], b[:-1]), _last_row(params)

    J = jacobian(last_row_at_end, theta)
    count = len(goal.to_params(theta).a) + 1
    others, last = J[:-count], J[-count:]
    alone = jnp.all(others == 0, axis=0)
    basis, size, directions = jnp.linalg.svd(
        jnp.where(alone[None], last, 0.0), full_matrices=False
    )
    there = size > jnp.finfo(size.dtype).eps ** 0.5 * size[0]
    lift = directions.T * jnp.where(there, 1 / jnp.where(there, size, 1.0), 0.0)[None]
    return _Freedom(
        jnp.where(there[None], basis, 0.0), jnp.where(alone[:, None], lift, 0.0)
    )
