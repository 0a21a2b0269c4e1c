"""The last row of a solver by weighted least squares.

x_n = a_{n-1} x_0 + sum_j b_{n-1,j} u_j is linear in it, so once the velocities of a
batch are known, the best last row is found without another call of the field.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bns_jax import ns
from bns_jax.distill.algebra import in_double, in_two, jacobian
from bns_jax.distill.batch import Batch
from bns_jax.distill.optimizer import Goal
from bns_jax.distill.residuals import flat, unflat, weigh
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


class _Ends(NamedTuple):
    """Where the solver leads, and what it is a sum of: x_0 and all u_j.

    Attributes:
      x: (batch, d), x_n.
      gram: (batch, 2, n + 2, n + 2), the inner products of x_0, all u_j and x_n - x(1);
        in float32 they would be too coarse, so that each is the sum of two.
      columns: (batch, n + 1, d), x_0 and all u_j, where the loss needs them.
    """

    x: jax.Array
    gram: jax.Array
    columns: jax.Array | None


class _At(NamedTuple):
    """A last row that was tried.

    Attributes:
      moved: (k,), along the freedom.
      row: (n + 1,), its change.
      loss: of the batch.
      curvature: (batch,), of each sample's loss along its residual.
      pull: (batch, 2, n + 1), the columns times the slope of the loss, or None where
        the loss is one of distance.
    """

    moved: jax.Array
    row: jax.Array
    loss: jax.Array
    curvature: jax.Array
    pull: jax.Array | None


def refit(goal: Goal, theta: Any, double: bool) -> tuple[Any, jax.Array]:
    """Runs the solver on a batch and fits its last row.

    Of a loss that depends on ||x_n - x(1)|| alone, the Gram matrix of each sample says
    all; others need the velocities of the whole batch.

    Args:
      goal: whose loss is minimized, by least squares that are weighted twice.
      theta: of any family; it comes back as it is where no number of it moves the last
        row alone.
      double: whether the algebra runs in float64.

    Returns:
      theta, and the loss of the batch there: one forward run is all that it costs.
    """
    params = goal.to_params(theta)
    ends = goal.map(partial(_run, goal, params, double), goal.batch)
    freedom, start = _freedom(goal, theta), _last_row(params)
    point, unravel = ravel_pytree(theta)
    measure = _of_distance if goal.objective.is_of_distance else _of_columns
    fit = in_double(_least_squares, double)

    def lift(moved: jax.Array) -> Any:
        return unravel(point + jnp.dot(freedom.lift, moved, precision="highest"))

    def at(moved: jax.Array) -> _At:
        row = _last_row(goal.to_params(lift(moved))) - start
        loss, curvature, pull = measure(goal, ends, row, double)
        return _At(moved, row, goal.mean(loss), curvature, pull)

    best = tried = at(jnp.zeros_like(freedom.lift[0]))
    for _ in range(_ROUNDS):
        step = fit(freedom.basis, ends.gram, goal.batch.weights, tried)
        tried = at(tried.moved + step.astype(tried.moved.dtype))
        better = tried.loss < best.loss
        best = jax.tree.map(partial(jnp.where, better), tried, best)
    return lift(best.moved), best.loss


def _run(goal: Goal, params: NSParams, double: bool, batch: Batch) -> _Ends:
    """Where it leads some samples."""
    x_n, u = ns.sample_velocities(params, goal.vf, batch.x0, *batch.args)
    x, u = flat(x_n), jnp.moveaxis(flat(u, 2), 0, 1)
    columns = jnp.concatenate([flat(batch.x0)[:, None], u], axis=1)
    residual = (x - flat(batch.x1))[:, None]
    gram = in_double(_gram, double)(jnp.concatenate([columns, residual], axis=1))
    return _Ends(x, gram, None if goal.objective.is_of_distance else columns)


def _gram(vectors: jax.Array) -> jax.Array:
    """The inner products of vectors (batch, m, d), each as the sum of two."""
    products = jnp.einsum("smd,snd->smn", vectors, vectors)
    return jnp.moveaxis(in_two(products), 0, 1)


def _of_distance(
    goal: Goal, ends: _Ends, row: jax.Array, double: bool
) -> tuple[jax.Array, jax.Array, None]:
    """The loss and curvature of each sample with a moved last row.

    What stands for x_n is x(1) + rho r, which has its distance.
    """
    rho = in_double(_growth, double)(ends.gram, row).astype(ends.x.dtype)

    def weighted(inputs: tuple[Batch, jax.Array, jax.Array]) -> Any:
        batch, x, rho = inputs
        target = flat(batch.x1)
        x = target + rho[:, None] * (x - target)
        _, loss, curvature = _weigh(goal, x, batch)
        return loss, curvature

    return *goal.map(weighted, (goal.batch, ends.x, rho)), None


def _growth(gram: jax.Array, row: jax.Array) -> jax.Array:
    """The ratio rho = ||r + columns row|| / ||r|| of each sample."""
    G, v = jnp.sum(gram, axis=1), jnp.append(row, jnp.ones_like(row[0]))
    new, old = jnp.einsum("smn,m,n->s", G, v, v), G[:, -1, -1]
    ratio = jnp.maximum(new, 0.0) / jnp.where(old > 0, old, 1.0)
    return jnp.sqrt(jnp.where(old > 0, ratio, 0.0))


def _of_columns(
    goal: Goal, ends: _Ends, row: jax.Array, double: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same of any loss, and what pulls at the row."""
    project = in_double(_project, double)

    def weighted(inputs: tuple[Batch, _Ends]) -> Any:
        batch, some = inputs
        change = row.astype(some.x.dtype)
        x = some.x + jnp.einsum("snd,n->sd", some.columns, change, precision="highest")
        slope, loss, curvature = _weigh(goal, x, batch)
        return loss, curvature, project(some.columns, slope)

    return goal.map(weighted, (goal.batch, ends))


def _project(columns: jax.Array, slope: jax.Array) -> jax.Array:
    return jnp.moveaxis(in_two(jnp.einsum("snd,sd->sn", columns, slope)), 0, 1)


def _weigh(
    goal: Goal, x: jax.Array, batch: Batch
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Slope, loss and curvature of some samples that are given as rows."""
    weighted = weigh(goal.objective.loss, unflat(x, batch.x1), batch)
    return weighted.slope, weighted.loss, weighted.curvature


def _least_squares(
    basis: jax.Array, gram: jax.Array, weights: jax.Array, at: _At
) -> jax.Array:
    """The step that minimises sum_s w_s c_s ||r_s + columns_s basis step||^2.

    There r_s is the residual at the row that was tried.
    """
    G = jnp.sum(gram, axis=1)[:, :-1]
    if at.pull is None:
        v = jnp.append(at.row, jnp.ones_like(at.row[0]))
        pull = jnp.einsum("s,smn,n->m", weights * at.curvature, G, v)
    else:
        pull = jnp.einsum("s,stm->m", weights, at.pull)
    product = jnp.einsum("s,smn->mn", weights * at.curvature, G[:, :, :-1])
    pull, product = basis.T @ pull, basis.T @ product @ basis
    diagonal = jnp.diag(product)
    scale = jnp.where(diagonal > 0, 1 / jnp.sqrt(jnp.abs(diagonal)), 0.0)
    ridge = 16 * len(product) * jnp.finfo(product.dtype).eps
    scaled = product * scale[:, None] * scale[None]
    scaled = scaled + ridge * jnp.eye(len(product), dtype=product.dtype)
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
