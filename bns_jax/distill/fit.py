"""The training loop: batches in, the solver of the best validation iteration out."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from bns_jax import checkpoint as checkpoints
from bns_jax import conditioning, ns, pairs, parallel, probing
from bns_jax.distill.checks import check_inputs, check_shapes
from bns_jax.distill.distilled import Distilled
from bns_jax.distill.evaluate import mean_over_misses, take
from bns_jax.distill.evaluate import measure as measure_pairs
from bns_jax.distill.finite import report_not_finite
from bns_jax.distill.gauss_newton import gauss_newton
from bns_jax.distill.losses import psnr_loss
from bns_jax.distill.optimizer import Loss, Metric, Objective, Optimizer, Rows, Trainer
from bns_jax.distill.record import Record
from bns_jax.distill.run_identity import Run, pair_weights, plan
from bns_jax.distill.state import HistoryRow, Recipe, TrainerState, initial_state
from bns_jax.distill.stopping import is_stale
from bns_jax.families import Family, PathLoss
from bns_jax.metrics import psnr
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs
from bns_jax.progress import on_terminal
from bns_jax.pytree import as_pytree
from bns_jax.typing import Progress, VelocityField


class Interrupted(Exception):
    """A run that was asked to stop; its state is saved if it has a checkpoint."""


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
    weights: np.ndarray | None = None,
    microbatch: int | None = None,
    patience: int | None = None,
    callback: Callable[[HistoryRow, NSParams], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Distilled:
    """Fits a family of solvers to ground-truth pairs.

    Args:
      family: where to search and from where; `families.bns(solver)`.
      vf: the field, called as vf(t, x, *args) with a batch and a scalar t. Give the
        weights of a network through `jax.tree_util.Partial(apply, weights)`.
      train: pairs to fit.
      validation: pairs that choose the iteration.
      optimizer: `gauss_newton()` if left out.
      loss: loss(x_n, x1) -> (batch,), minimised in the mean; or a
        `families.PathLoss`, with `adam` or `with_optax` only.
      batch: samples per step; the optimizer's own default if left out, at most all
        the pairs, and so for the next two and `patience`.
      iterations: steps.
      evaluate_every: steps between validations.
      metric: metric(x_n, x1) -> (batch,), larger is better.
      seed: of the order of the pairs and the trainer's own draws.
      checkpoint: a directory; the state is saved there at each validation, in the
        background, and a second call with the same arguments continues from it. The
        field, the loss, the metric and the optimizer are compared by name, weights and
        what they answer on a few samples, within 0.1 %; see `identify`.
      mesh: devices to lay each batch over, along the mesh's first axis; where they do
        not divide it, it is filled up with samples that count nothing. Weights of the
        field that lie on these devices already stay as they are sharded. Processes on
        several hosts give the same arguments.
      progress: called at each validation; a line on a terminal if left out.
      weights: (N,), how much each training pair counts; equally if left out.
      microbatch: samples to work on at a time, for a batch that does not fit in
        memory; divides it. The whole batch if left out.
      patience: the run ends after this many validations in a row of which none
        counts. One counts that lies above the last that did by at least 5 % of what
        the run has gained since its start. With
        `optimizer._replace(patience=None)` a run never ends early.
      callback: called at each validation with its row and the solver it measured;
        again with the last row if a run that died then continues.
      stop: asked before each step; once it says yes, the state is saved and the run
        ends.

    Returns:
      The solver of the best validation iteration, and how it was found. The start
      counts as iteration 0, so the result never validates below it.

    Raises:
      TypeError: if a leaf of the pairs is no array of numbers.
      ValueError: if a number is out of its range, the pairs do not belong together, are
        fewer than a batch or hold fewer numbers than the family, the weights are not
        positive, the family does not start from a valid solver, the field or the loss
        returns a wrong shape, the field refuses the conditioning (see
        `conditioning.check`), the optimizer has no use for the loss, the checkpoint is
        of another run, the microbatch does not divide the batch or the devices not the
        microbatch, the start is not finite, or ten steps in a row are not: the state
        before them is saved then.
      OSError: if the state cannot be saved.
      Interrupted: if `stop` said yes.

    Warns:
      UserWarning: if validation pairs start from noise that training pairs start from.
    """
    optimizer = optimizer or gauss_newton()
    recipe = plan(optimizer, train, batch, iterations, evaluate_every, seed)
    weights = pair_weights(train, weights)
    patience = optimizer.patience if patience is None else patience
    check_inputs(recipe, family, train, validation, weights, microbatch, patience)
    if microbatch is not None:
        parallel.check_divisible(microbatch, mesh)
    # What counts is their ratio; as they are, float32 may not hold them.
    weights = weights / np.max(weights)
    given = as_pytree(vf)
    vf = parallel.place(given, mesh)
    conditioning.check(given, validation.args)
    answers = probing.look(vf, train.x0, train.args, mesh)
    trainer = optimizer.trainer(recipe.iterations)
    with_path, devices = isinstance(loss, PathLoss), parallel.batch_devices(mesh)
    draw = partial(_batch, train, weights, recipe, with_path, devices)
    objective = partial(
        Objective, family.to_params, loss=loss, microbatch=microbatch, times=train.times
    )
    rows = draw(0)
    check_shapes(objective(vf, rows), family, metric)
    step = make_step(trainer, objective, mesh)
    cost = trainer.cost * len(family.to_params(family.theta).a) * recipe.batch
    validate = partial(_validate, vf, validation, metric, mesh)
    run = Run(recipe, optimizer, family, train, validation, loss, metric, weights)
    identity = run.identity(given, answers)

    report = progress or on_terminal("distill", "steps")
    state = parallel.replicate(initial_state(family, trainer, seed), mesh)
    # What the optimizer cannot work with, it says before anything is done. Laid out as
    # in a step, so that the first one finds it traced.
    jax.eval_shape(step, state, vf, parallel.shard(rows, mesh))
    with checkpoints.Checkpointer(checkpoint) as saver:
        record = Record(saver, identity, recipe.iterations)
        state = record.resume(state)
        to_params = jax.jit(family.to_params)

        def measure(state: TrainerState) -> TrainerState:
            params = jax.tree.map(np.asarray, to_params(state.theta))
            state, value = validate(state, params)
            row = record.add(state, value, int(state.step) * cost)
            # Before the save: a run that dies between them gives the row again.
            if callback is not None:
                callback(row, params)
            record.save(state)
            report(row.iteration, recipe.iterations, f"validation {value:.2f}")
            return state

        def check_finite(state: TrainerState, done: int, look: bool) -> None:
            if record.recent.none_is_finite(done, look):
                record.save(state)
                rows = parallel.shard(draw(done - 1), mesh)
                tried = len(record.recent)
                report_not_finite(to_params(state.theta), done, vf, rows, tried)

        if not record.history:
            state = measure(state)
        check_finite(state, int(state.step), look=True)
        for iteration in range(int(state.step), recipe.iterations):
            if not record.losses and is_stale(record.history, patience):
                break
            if stop is not None and stop():
                if record.losses:
                    record.save(state)
                raise Interrupted(f"stopped before iteration {iteration + 1}")
            rows = parallel.shard(draw(iteration), mesh)
            state, value = step(state, vf, rows)
            record.add_loss(value)
            done = iteration + 1
            if done % parallel.steps_in_flight() == 0:
                value.block_until_ready()
            validates = done % recipe.evaluate_every == 0 or done == recipe.iterations
            check_finite(state, done, look=validates)
            if validates:
                state = measure(state)
        params = jax.tree.map(np.asarray, to_params(state.best_theta))
        ns.validate(params)
        best = max(record.history, key=lambda row: row.val_metric)
        forwards = int(state.step) * cost
        history = tuple(record.history)
        seen = pairs.first(train, validation.size)
        trained = mean_over_misses(measure_pairs(params, vf, seen, metric, mesh))
        return Distilled(
            params,
            history,
            forwards,
            best.iteration,
            best.val_metric,
            identity,
            trained,
        )


def make_step(
    trainer: Trainer,
    objective: Callable[[VelocityField, Rows], Objective],
    mesh: Mesh | None = None,
) -> Callable[..., tuple[TrainerState, jax.Array]]:
    """The jitted training step: (state, vf, rows) -> (state, loss).

    The loss of a step that was rejected is nan.
    """

    @partial(jax.jit, donate_argnums=0, out_shardings=parallel.replicated(mesh))
    def step(
        state: TrainerState, vf: Any, rows: Rows
    ) -> tuple[TrainerState, jax.Array]:
        key = jax.random.fold_in(state.key, state.step)
        goal = objective(vf, rows)
        update = trainer.update(goal, state.theta, state.opt_state, key)
        state = state._replace(
            step=state.step + 1,
            theta=update.theta,
            opt_state=update.opt_state,
            rejected=state.rejected + update.rejected.astype(jnp.int32),
        )
        return state, jnp.where(update.rejected, jnp.nan, update.loss)

    return step


def _validate(
    vf: VelocityField,
    validation: Pairs,
    metric: Metric,
    mesh: Mesh | None,
    state: TrainerState,
    params: NSParams,
) -> tuple[TrainerState, float]:
    """Measures a solver, and keeps its theta if it is the best so far."""
    values = measure_pairs(params, vf, validation, metric, mesh)
    value = mean_over_misses(values)
    if int(state.step) == 0 and not value > -math.inf:
        sample = int(np.argmin(np.isfinite(values)))
        raise ValueError(
            f"the metric of the start is {values[sample]} on validation pair {sample}: "
            "the field or the metric is not finite there"
        )
    if value > state.best_metric:
        # A copy, because a step donates its state.
        state = state._replace(
            best_theta=jax.tree.map(jnp.copy, state.theta),
            best_metric=parallel.replicate(
                np.asarray(value, state.best_metric.dtype), mesh
            ),
        )
    return state, value


def _batch(
    train: Pairs,
    weights: np.ndarray,
    recipe: Recipe,
    with_path: bool,
    devices: int,
    iteration: int,
) -> Rows:
    """The pairs of one step, filled up with such of weight 0 to what devices divide.

    A function of the step alone, so that runs resume.
    """
    epoch, index = divmod(iteration, train.size // recipe.batch)
    order = np.random.default_rng((recipe.seed, epoch)).permutation(train.size)
    rows = order[index * recipe.batch : (index + 1) * recipe.batch]
    rows = np.pad(rows, (0, -recipe.batch % devices), mode="edge")
    counts = weights[rows].astype(np.float32)
    counts[recipe.batch :] = 0
    x0, x1, args = take(train, rows)
    path = None
    if with_path:
        path = jax.tree.map(lambda leaf: np.moveaxis(leaf[:, rows], 1, 0), train.path)
    return Rows(x0, x1, args, counts, path)
