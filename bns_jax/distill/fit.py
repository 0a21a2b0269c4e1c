"""The training loop: batches in, the solver of the best validation iteration out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from bns_jax import checkpoint as checkpoints
from bns_jax import ns, pairs, parallel
from bns_jax.distill.evaluate import evaluate, score, take
from bns_jax.distill.first_order import adam
from bns_jax.distill.losses import psnr_loss
from bns_jax.distill.optimizer import Loss, Metric, Objective, Optimizer, Trainer
from bns_jax.distill.state import (
    HistoryRow,
    Recipe,
    TrainerState,
    identify,
    initial_state,
    resume,
)
from bns_jax.families import Family
from bns_jax.metrics import psnr
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs
from bns_jax.pytree import as_pytree
from bns_jax.typing import Progress, VelocityField

# jax before 0.12 deadlocks on CPU meshes with many steps in flight.
_STEPS_IN_FLIGHT = 10


class Distilled(NamedTuple):
    """A fitted solver.

    Attributes:
      params: of the best validation iteration, NumPy arrays ready for `sample`.
      history: one row per validation, the start included.
      forwards: field calls per sample spent: forward 1, backward 2; recomputation and
        validation not counted.
      iteration: the best one.
      val_metric: what it reached on the validation pairs.
    """

    params: NSParams
    history: tuple[HistoryRow, ...]
    forwards: int
    iteration: int
    val_metric: float


def fit(
    family: Family,
    vf: VelocityField,
    train: Pairs,
    validation: Pairs,
    optimizer: Optimizer | None = None,
    loss: Loss = psnr_loss,
    batch: int | None = None,
    iterations: int | None = None,
    evaluate_every: int | None = None,
    metric: Metric = psnr,
    seed: int = 0,
    checkpoint: epath.PathLike | None = None,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
) -> Distilled:
    """Fits a family of solvers to ground-truth pairs.

    Args:
      family: where to search and from where; `families.bns(solver)`.
      vf: the field, called as vf(t, x, *args) with a batch and a scalar t. Give the
        weights of a network through `jax.tree_util.Partial(apply, weights)`.
      train: pairs to fit.
      validation: pairs that choose the iteration.
      optimizer: `adam()`, Algorithm 2 as published, if left out.
      loss: loss(x_n, x1) -> (batch,), minimised in the mean.
      batch: samples per step; the optimizer's own default if left out, and so for
        the next two.
      iterations: steps.
      evaluate_every: steps between validations.
      metric: metric(x_n, x1) -> (batch,), larger is better.
      seed: of the order of the pairs and the trainer's own draws.
      checkpoint: a directory; the state is saved there at each validation, and a
        second call with the same arguments continues from it.
      mesh: devices to lay each batch over, along the mesh's first axis.
      progress: called at each validation.

    Returns:
      The solver of the best validation iteration, and how it was found. The start
      counts as iteration 0, so the result never validates below it.

    Raises:
      ValueError: if the pairs do not belong together or are fewer than a batch, the
        family does not start from a valid solver, the field or the loss returns a
        wrong shape, the checkpoint is of another run, the devices do not divide
        the batch, or neither the start nor a step of a whole validation interval is
        finite.
    """
    optimizer = optimizer or adam()
    recipe = Recipe(
        optimizer.batch if batch is None else batch,
        optimizer.iterations if iterations is None else iterations,
        optimizer.evaluate_every if evaluate_every is None else evaluate_every,
        seed,
    )
    _check_inputs(recipe, family, vf, train, validation, loss, metric)
    parallel.check_divisible(recipe.batch, mesh)
    vf = parallel.replicate(as_pytree(vf), mesh)
    trainer = optimizer.trainer(recipe.iterations)
    step = _make_step(family, trainer, loss, recipe.batch)
    validate = partial(_validate, family, vf, validation, metric, mesh)
    identity = identify(recipe, optimizer, family, vf, train, validation, loss, metric)

    state = parallel.replicate(initial_state(family, trainer, seed), mesh)
    state, history = resume(checkpoint, state, identity)
    start = time.monotonic() - (history[-1].seconds if history else 0.0)

    def record(state: TrainerState, losses: list[jax.Array]) -> TrainerState:
        state, value = validate(state)
        train_loss = float(np.mean(jax.device_get(losses))) if losses else math.nan
        seconds, done = time.monotonic() - start, int(state.step)
        row = HistoryRow(done, int(state.forwards), train_loss, value, seconds)
        history.append(row)
        if checkpoint is not None:
            metadata = {"identity": identity, "history": [list(row) for row in history]}
            checkpoints.save(checkpoint, done, state, metadata)
        if progress is not None:
            progress(done, recipe.iterations, f"validation {value:.2f}")
        return state

    if not history:
        state = record(state, [])
    losses: list[jax.Array] = []
    rejected_before = int(state.rejected)
    for iteration in range(int(state.step), recipe.iterations):
        rows = parallel.shard(_batch(train, recipe, iteration), mesh)
        state, value = step(state, vf, rows)
        losses.append(value)
        if iteration % _STEPS_IN_FLIGHT == 0:
            value.block_until_ready()
        done = iteration + 1
        if done % recipe.evaluate_every == 0 or done == recipe.iterations:
            _check_accepted(state, rejected_before, losses)
            state = record(state, losses)
            losses, rejected_before = [], int(state.rejected)
    return _distilled(family, state, tuple(history))


def _make_step(
    family: Family, trainer: Trainer, loss: Loss, batch: int
) -> Callable[..., tuple[TrainerState, jax.Array]]:
    """The jitted training step: (state, vf, (x0, x1, args)) -> (state, loss)."""
    cost = trainer.cost * len(family.to_params(family.theta).a) * batch

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainerState, vf: Any, rows: Any) -> tuple[TrainerState, jax.Array]:
        x0, x1, args = rows
        objective = Objective(family.to_params, vf, x0, x1, args, loss)
        key = jax.random.fold_in(state.key, state.step)
        update = trainer.update(objective, state.theta, state.opt_state, key)
        state = state._replace(
            step=state.step + 1,
            theta=update.theta,
            opt_state=update.opt_state,
            rejected=state.rejected + update.rejected.astype(jnp.int32),
            forwards=state.forwards + cost,
        )
        return state, update.loss

    return step


def _validate(
    family: Family,
    vf: VelocityField,
    validation: Pairs,
    metric: Metric,
    mesh: Mesh | None,
    state: TrainerState,
) -> tuple[TrainerState, float]:
    """Measures theta, and keeps it if it is the best so far."""
    params = family.to_params(state.theta)
    value = float(np.mean(evaluate(params, vf, validation, metric, mesh)))
    if math.isnan(value) and int(state.step) == 0:
        raise ValueError(
            "the metric of the start is nan on the validation pairs: the field or the "
            "metric is not finite there"
        )
    if value > state.best_metric:
        # A copy, because a step donates its state.
        state = state._replace(
            best_theta=jax.tree.map(jnp.copy, state.theta),
            best_metric=jnp.full_like(state.best_metric, value),
        )
    return state, value


def _batch(train: Pairs, recipe: Recipe, iteration: int) -> Any:
    """The pairs of one step; a function of the step alone, so that runs resume."""
    epoch, index = divmod(iteration, train.size // recipe.batch)
    order = np.random.default_rng((recipe.seed, epoch)).permutation(train.size)
    return take(train, order[index * recipe.batch : (index + 1) * recipe.batch])


def _distilled(
    family: Family, state: TrainerState, history: tuple[HistoryRow, ...]
) -> Distilled:
    params = jax.tree.map(np.asarray, family.to_params(state.best_theta))
    ns.validate(params)
    best = max(history, key=lambda row: row.val_metric)
    return Distilled(
        params, history, int(state.forwards), best.iteration, best.val_metric
    )


def _check_accepted(
    state: TrainerState, rejected_before: int, losses: list[jax.Array]
) -> None:
    if int(state.rejected) - rejected_before == len(losses):
        done = int(state.step)
        raise ValueError(
            f"no step from iteration {done - len(losses) + 1} to {done} was finite: "
            "the field or the loss is not finite on these pairs"
        )


def _check_inputs(
    recipe: Recipe,
    family: Family,
    vf: VelocityField,
    train: Pairs,
    validation: Pairs,
    loss: Loss,
    metric: Metric,
) -> None:
    """Everything that can be wrong, found before the work starts."""
    for name in ("batch", "iterations", "evaluate_every"):
        if getattr(recipe, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(recipe, name)}")
    for data in (train, validation):
        pairs.check(data)
    if recipe.batch > train.size:
        raise ValueError(
            f"batch is larger than the data: expected at most {train.size} training "
            f"pairs, got {recipe.batch}"
        )
    params = family.to_params(family.theta)
    ns.validate(params)
    x0, x1, args = take(train, np.arange(recipe.batch))
    for name, function in (("loss", loss), ("metric", metric)):
        scored = partial(score, function)
        shape = jax.eval_shape(scored, params, as_pytree(vf), x0, x1, args).shape
        if shape != (recipe.batch,):
            raise ValueError(
                f"the {name} must return one number per sample, expected shape "
                f"{(recipe.batch,)}, got {shape}"
            )
