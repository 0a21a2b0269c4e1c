"""Gauss-Newton: a few hundred numbers and thousands of residuals are least squares.

With residuals r_s = x_n - x(1) and a loss whose gradient along r_s is c_s r_s, one
sample bends the loss by c_s J_s^T J_s. A vector-Jacobian product with random signs z
gives q_s = sqrt(c_s) J_s^T z, and E[q_s q_s^T] is that curvature: no Jacobian is
formed. The last row of b enters x_n linearly and is solved for exactly.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bns_jax import scalars
from bns_jax.distill.algebra import in_double, in_two, jacobian
from bns_jax.distill.batch import Batch
from bns_jax.distill.last_row import refit
from bns_jax.distill.optimizer import Goal, Optimizer, Trainer, Update
from bns_jax.distill.residuals import unflat, weigh
from bns_jax.ns import NSParams, sample
from bns_jax.typing import Sample

_DAMPINGS = (0.1, 10.0)
_LEAST_DAMPING, _LARGEST_DAMPING = 1e-12, 1e4


class GaussNewtonState(NamedTuple):
    """What a step hands to the next.

    Attributes:
      curvature: (2, p, p), the running mean, as the sum of two: what the first rounds
        off is in the second, because float32 has too few digits for it.
      weight: the sum of the weights in that mean.
      damping: what the last accepted step was damped by.
    """

    curvature: jax.Array
    weight: jax.Array
    damping: jax.Array


class _Sensitivity(NamedTuple):
    """Per sample: its loss, the gradient of it, and sketches of its curvature."""

    loss: jax.Array
    gradient: jax.Array
    sketches: jax.Array


def gauss_newton(
    *,
    memory: float = 0.5,
    sketches: int = 1,
    damping: float = 1e-3,
    double: bool | None = None,
) -> Optimizer:
    """Damped Gauss-Newton steps on minibatches.

    Each step draws the curvature of its batch, averages it with that of earlier steps,
    scales it by its diagonal, and tries a tenth and ten times the damping of the last
    good step; with each of them the last row of the solver is fitted exactly. The
    better one is taken if it lowers the loss of the batch, otherwise theta stays and
    the damping grows. Any loss of x_n will do; the method is at its best where that of
    a sample is a function of ||x_n - x(1)||. By default 32 steps of 260 pairs,
    validated every 4, with patience 1 (see `fit`). For other losses the last row takes
    the velocities of a batch at once, (batch, n + 1, d), whatever the microbatch.

    Args:
      memory: how much of the earlier curvature a step keeps, in [0, 1).
      sketches: random vector-Jacobian products per sample and step.
      damping: at the start, relative to the scaled curvature.
      double: whether the p x p algebra runs in float64; where the hardware has it
        (not on TPUs) if left out.

    Returns:
      The recipe, for `fit`.

    Raises:
      ValueError: if an argument is out of its range.
    """
    memory = scalars.finite("memory", memory)
    if not 0 <= memory < 1:
        raise ValueError(f"memory must lie in [0, 1), got {memory}")
    sketches = scalars.count("sketches", sketches)
    damping = scalars.positive("damping", damping)

    made = _trainer(memory, sketches, damping, double)
    name = f"gauss_newton({memory}, {sketches}, {damping}, {double})"
    return Optimizer(
        lambda iterations: made,
        name,
        batch=260,
        iterations=32,
        evaluate_every=4,
        patience=1,
    )


@lru_cache
def _trainer(
    memory: float, sketches: int, damping: float, double: bool | None
) -> Trainer:
    """The same for equal settings, so that their steps are equal."""
    init = partial(_init, damping)
    update = partial(_update, memory, sketches, double)
    return Trainer(init, update, 1 + 2 + 2 * sketches + len(_DAMPINGS))


def _init(damping: float, theta: Any) -> GaussNewtonState:
    point, _ = ravel_pytree(theta)
    zero = jnp.zeros((), point.dtype)
    return GaussNewtonState(
        jnp.zeros((2, point.size, point.size), point.dtype), zero, zero + damping
    )


def _update(
    memory: float,
    sketches: int,
    double: bool | None,
    goal: Goal,
    theta: Any,
    state: GaussNewtonState,
    key: jax.Array,
) -> Update:
    """One step: the better of two dampings, if it lowers the loss of the batch."""
    wide = jax.default_backend() != "tpu" if double is None else double
    _check_is_of_end(goal)
    point, unravel = ravel_pytree(theta)
    drawn = _sensitivities(goal, theta, key, sketches)
    loss = goal.mean(drawn.loss)
    solved = in_double(partial(_steps, memory), wide)(drawn, goal.batch.weights, state)
    curvature, weight, steps = (leaf.astype(point.dtype) for leaf in solved)

    def attempt(step: jax.Array) -> tuple[jax.Array, jax.Array]:
        moved, reached = refit(goal, unravel(point + step), wide)
        return ravel_pytree(moved)[0], reached

    points, losses = jax.lax.map(attempt, steps)
    losses = jnp.where(jnp.isfinite(losses), losses, jnp.inf)
    best = jnp.argmin(losses)
    better = losses[best] < loss
    tried = state.damping * jnp.asarray(_DAMPINGS, point.dtype)
    new_damping = jnp.where(better, tried[best], 10.0 * state.damping)
    finite = jnp.isfinite(loss) & jnp.any(jnp.isfinite(losses))
    new_state = GaussNewtonState(
        jnp.where(finite, curvature, state.curvature),
        jnp.where(finite, weight, state.weight),
        jnp.clip(new_damping, _LEAST_DAMPING, _LARGEST_DAMPING),
    )
    return Update(
        unravel(jnp.where(better, points[best], point)), new_state, loss, ~finite
    )


def _check_is_of_end(goal: Goal) -> None:
    if not goal.objective.is_of_end:
        raise ValueError(
            "gauss_newton needs a loss of x_n, got one of another rollout: "
            f"{goal.objective}; adam and with_optax take any"
        )


def _sensitivities(
    goal: Goal, theta: Any, key: jax.Array, sketches: int
) -> _Sensitivity:
    """The loss of each sample, its gradient in theta, and sketches of its curvature."""
    to_params, vf, loss = goal.to_params, goal.vf, goal.objective.loss
    params, J = to_params(theta), jacobian(to_params, theta)

    def one(inputs: tuple[Batch, jax.Array]) -> _Sensitivity:
        sample_alone, key = inputs
        batch = jax.tree.map(lambda leaf: leaf[None], sample_alone)

        def run(params: NSParams) -> Sample:
            return sample(params, vf, batch.x0, *batch.args)

        # The field is evaluated once at each iterate, for all that is pulled back.
        x_n, pull = jax.vjp(run, params)
        weighted = weigh(loss, x_n, batch)
        root = jnp.sqrt(weighted.curvature)[:, None]
        shape = sketches, weighted.slope.size
        signs = jax.random.rademacher(key, shape, root.dtype)
        seeds = jnp.concatenate([weighted.slope, root * signs])

        def pulled_back(seed: jax.Array) -> NSParams:
            like = unflat(seed[None], x_n)
            cotangent = jax.tree.map(lambda ct, x: ct.astype(x.dtype), like, x_n)
            return pull(cotangent)[0]

        arrays = jax.vmap(pulled_back)(seeds)
        cotangents = jax.vmap(lambda arrays: ravel_pytree(arrays)[0])(arrays)
        pulled = jnp.dot(cotangents, J, precision="highest")
        return _Sensitivity(weighted.loss[0], pulled[0], pulled[1:])

    keys = jax.random.split(key, len(goal.batch.weights))
    return goal.map(jax.vmap(one), (goal.batch, keys))


def _steps(
    memory: float, drawn: _Sensitivity, weights: jax.Array, state: GaussNewtonState
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The new curvature and its weight, and a step for each damping."""
    share = weights / jnp.sum(weights)
    gradient = share @ drawn.gradient
    count = drawn.sketches.shape[1]
    new = jnp.einsum("skp,skq,s->pq", drawn.sketches, drawn.sketches, share / count)
    curvature = memory * jnp.sum(state.curvature, axis=0) + (1 - memory) * new
    weight = memory * state.weight + (1 - memory)
    steps = [
        damped_step(curvature, weight * gradient, state.damping * ratio)
        for ratio in _DAMPINGS
    ]
    return in_two(curvature), weight, jnp.stack(steps)


def damped_step(C: jax.Array, gradient: jax.Array, damping: jax.Array) -> jax.Array:
    """The step that minimises gradient . step + step . (C + damping diag C) step / 2.

    Args:
      C: (p, p), positive semidefinite.
      gradient: (p,).
      damping: relative to the diagonal.

    Returns:
      (p,); 0 along a number that has no curvature.
    """
    diagonal = jnp.diag(C)
    scale = jnp.where(diagonal > 0, 1 / jnp.sqrt(jnp.abs(diagonal)), 0.0)
    # Rounding may leave a singular matrix with pivots below 0.
    rounding = 4 * len(C) * jnp.finfo(C.dtype).eps
    unit = jnp.eye(len(C), dtype=C.dtype)
    damped = C * scale[:, None] * scale[None] + (damping + rounding) * unit
    factor = jax.scipy.linalg.cho_factor(damped)
    return -scale * jax.scipy.linalg.cho_solve(factor, scale * gradient)
