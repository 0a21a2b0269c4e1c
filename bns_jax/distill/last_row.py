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
from bns_jax.distill.algebra import in_double
from bns_jax.distill.optimizer import Objective, Rows
from bns_jax.distill.residuals import Weighted, flat, unflat, weigh

_ROUNDS = 2


class _Freedom(NamedTuple):
    """The last rows (a_{n-1}, b_{n-1}) that a family reaches with the rest unchanged.

    Attributes:
      basis: (n + 1, k), orthonormal columns, or zeros where there are fewer than k.
      lift: (p, k), the step of theta that moves the row along each of them.
    """

    basis: jax.Array
    lift: jax.Array


def refit(objective: Objective, theta: Any, double: bool) -> tuple[Any, jax.Array]:
    """Runs the solver on a batch and fits its last row.

    Args:
      objective: whose loss is minimised, by least squares that are weighted twice.
      theta: of any family; it comes back as it is where no number of it moves the last
        row alone.
      double: whether the algebra runs in float64.

    Returns:
      theta, and the loss of the batch there: one forward run is all that it costs.
    """
    params = objective.to_params(theta)

    def run(rows: Rows) -> tuple[jax.Array, jax.Array]:
        """x_n, (batch, d), and what it is a sum of, x_0 and all u_j."""
        x_n, u = ns.sample_velocities(params, objective.vf, rows.x0, *rows.args)
        u = jnp.moveaxis(flat(u, 2), 0, 1)
        return flat(x_n), jnp.concatenate([flat(rows.x0)[:, None], u], axis=1)

    x_n, columns = objective.map(run, objective.rows)
    freedom = _freedom(objective, theta)
    columns = jnp.einsum("snd,nk->skd", columns, freedom.basis.astype(columns.dtype))
    fit = in_double(_least_squares, double)

    def measure(moved: jax.Array) -> tuple[jax.Array, Weighted]:
        x = x_n + jnp.einsum("skd,k->sd", columns, moved.astype(x_n.dtype))
        x1 = objective.rows.x1
        weighted = weigh(objective.end_loss, unflat(x, x1), x1)
        return objective.mean(weighted.loss), weighted

    moved = jnp.zeros_like(freedom.lift[0])
    loss, weighted = measure(moved)
    best, lowest = moved, loss
    for _ in range(_ROUNDS):
        step = fit(columns, objective.rows.weights, weighted)
        moved = moved + step.astype(moved.dtype)
        loss, weighted = measure(moved)
        best = jnp.where(loss < lowest, moved, best)
        lowest = jnp.fmin(loss, lowest)
    point, unravel = ravel_pytree(theta)
    return unravel(point + freedom.lift @ best), lowest


def _least_squares(
    columns: jax.Array, weights: jax.Array, weighted: Weighted
) -> jax.Array:
    """The step that minimises sum_s w_s c_s ||r_s + columns_s step||^2."""
    pull = jnp.einsum("skd,sd,s->k", columns, weighted.slope, weights)
    gram = jnp.einsum("skd,sld,s->kl", columns, columns, weights * weighted.curvature)
    diagonal = jnp.diag(gram)
    scale = jnp.where(diagonal > 0, 1 / jnp.sqrt(jnp.abs(diagonal)), 0.0)
    ridge = 16 * len(gram) * jnp.finfo(gram.dtype).eps
    scaled = gram * scale[:, None] * scale + jnp.eye(len(gram)) * ridge
    return -scale * jnp.linalg.solve(scaled, scale * pull)


def _freedom(objective: Objective, theta: Any) -> _Freedom:
    """Which numbers of theta move the last row and nothing else, to first order."""
    point, unravel = ravel_pytree(theta)

    def rows(point: jax.Array) -> tuple[jax.Array, jax.Array]:
        times, a, b = objective.to_params(unravel(point))
        return ravel_pytree((times, a[:-1], b[:-1]))[0], jnp.append(a[-1], b[-1])

    others, last = jax.jacfwd(rows)(point)
    alone = last * jnp.all(others == 0, axis=0)
    basis, size, directions = jnp.linalg.svd(alone, full_matrices=False)
    there = size > jnp.finfo(size.dtype).eps ** 0.5 * size[0]
    lift = jnp.where(there, 1 / jnp.where(there, size, 1.0), 0.0)
    return _Freedom(basis * there, directions.T * lift)
