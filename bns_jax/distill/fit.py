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
from bns_jax.distill.first_order import adam
from bns_jax.distill.losses import psnr_loss
from bns_jax.distill.optimizer import Loss, Objective, Optimizer, Trainer
from bns_jax.families import Family
from bns_jax.metrics import psnr
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs
from bns_jax.pytree import as_pytree, checksum
from bns_jax.typing import Progress, Sample, VelocityField

_EVALUATION_BATCH = 256
# jax before 0.12 deadlocks on CPU meshes with many steps in flight.
_STEPS_IN_FLIGHT = 10


class TrainerState(NamedTuple):
    """Everything that a resumed run needs.

    Attributes:
      step: steps done.
      theta: now.
      opt_state: of the trainer.
      key: PRNG key of the run.
      best_theta: of the best validation so far.
      best_metric: what it reached.
      rejected: steps that were not finite and not taken.
      forwards: field calls per sample spent.
    """

    step: jax.Array
    theta: Any
    opt_state: Any
    key: jax.Array
    best_theta: Any
    best_metric: jax.Array
    rejected: jax.Array
    forwards: jax.Array


class HistoryRow(NamedTuple):
    """One validation.

    Attributes:
      iteration: steps done.
      forwards: field calls per sample spent until then.
      train_loss: mean over the steps since the row before; nan at iteration 0.
      val_metric: mean over the validation pairs.
      seconds: since the start, earlier runs that were resumed included.
    """

    iteration: int
    forwards: int
    train_loss: float
    val_metric: float
    seconds: float


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
    metric: Callable[[Sample, Sample], jax.Array] = psnr,
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
    recipe = _Recipe(
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
    identity = _identity(recipe, optimizer, family, vf, train, validation)
    identity |= {"loss": _name(loss), "metric": _name(metric)}

    state = parallel.replicate(_initial_state(family, trainer, seed), mesh)
    state, history = _resume(checkpoint, state, identity)
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


def evaluate(
    params: NSParams,
    vf: VelocityField,
    data: Pairs,
    metric: Callable[[Sample, Sample], jax.Array] = psnr,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """What a solver reaches on pairs.

    Args:
      params: the solver.
      vf: the field.
      data: the pairs.
      metric: metric(x_n, x1) -> (batch,).
      mesh: devices to lay each batch over.

    Returns:
      (N,), the metric of each sample.
    """
    devices = mesh.size if mesh else 1
    size = -(-min(_EVALUATION_BATCH, data.size) // devices) * devices
    vf, values = as_pytree(vf), []
    for first in range(0, data.size, size):
        rows = np.arange(first, min(first + size, data.size))
        # The last batch is filled up, so that one program serves them all.
        filled = np.pad(rows, (0, size - len(rows)), mode="edge")
        batch = parallel.shard(_take(data, filled), mesh)
        values.append(np.asarray(_score(metric, params, vf, *batch))[: len(rows)])
    return np.concatenate(values)


@partial(jax.jit, static_argnums=0)
def _score(
    metric: Callable[[Sample, Sample], jax.Array],
    params: NSParams,
    vf: VelocityField,
    x0: Sample,
    x1: Sample,
    args: tuple[Any, ...],
) -> jax.Array:
    return metric(ns.sample(params, vf, x0, *args), x1)


class _Recipe(NamedTuple):
    batch: int
    iterations: int
    evaluate_every: int
    seed: int


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
    metric: Callable[[Sample, Sample], jax.Array],
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


def _initial_state(family: Family, trainer: Trainer, seed: int) -> TrainerState:
    theta = jax.tree.map(jnp.copy, family.theta)
    return TrainerState(
        step=jnp.zeros((), jnp.int32),
        theta=theta,
        opt_state=trainer.init(theta),
        key=jax.random.key(seed),
        best_theta=jax.tree.map(jnp.copy, theta),
        best_metric=jnp.full((), -jnp.inf),
        rejected=jnp.zeros((), jnp.int32),
        forwards=jnp.zeros((), jnp.int32),
    )


def _batch(train: Pairs, recipe: _Recipe, iteration: int) -> Any:
    """The pairs of one step; a function of the step alone, so that runs resume."""
    epoch, index = divmod(iteration, train.size // recipe.batch)
    order = np.random.default_rng((recipe.seed, epoch)).permutation(train.size)
    return _take(train, order[index * recipe.batch : (index + 1) * recipe.batch])


def _take(data: Pairs, rows: np.ndarray) -> Any:
    """(x0, x1, args) of some samples, gathered on the host."""
    kept = (data.x0, data.x1, data.args)
    return jax.tree.map(lambda leaf: np.asarray(leaf[rows]), kept)


def _identity(
    recipe: _Recipe,
    optimizer: Optimizer,
    family: Family,
    vf: VelocityField,
    train: Pairs,
    validation: Pairs,
) -> dict[str, Any]:
    """What tells this run from others, as JSON values."""
    return {
        **recipe._asdict(),
        "optimizer": optimizer.name,
        "start": checksum((family.theta, family.to_params(family.theta))),
        "field": checksum(vf),
        "train": checksum((train.x0, train.x1, train.args)),
        "validation": checksum((validation.x0, validation.x1, validation.args)),
    }


def _name(function: Callable[..., Any]) -> str:
    """What tells functions apart, the same in every process."""
    return getattr(function, "__qualname__", type(function).__name__)


def _resume(
    directory: epath.PathLike | None, state: TrainerState, identity: dict[str, Any]
) -> tuple[TrainerState, list[HistoryRow]]:
    """The state saved last, if any."""
    metadata = None if directory is None else checkpoints.newest_metadata(directory)
    there = identity if metadata is None else metadata.get("identity", {})
    differing = [
        f"{key}: there {there.get(key)!r}, here {identity[key]!r}"
        for key in identity
        if there.get(key) != identity[key]
    ]
    if differing:
        raise ValueError(
            f"the checkpoint in {directory} is of another run; " + "; ".join(differing)
        )
    found = None if directory is None else checkpoints.restore(directory, state)
    if found is None:
        return state, []
    return found.state, [HistoryRow(*row) for row in found.metadata["history"]]


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
    recipe: _Recipe,
    family: Family,
    vf: VelocityField,
    train: Pairs,
    validation: Pairs,
    loss: Loss,
    metric: Callable[[Sample, Sample], jax.Array],
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
    x0, x1, args = _take(train, np.arange(recipe.batch))
    for name, function in (("loss", loss), ("metric", metric)):
        score = partial(_score, function)
        shape = jax.eval_shape(score, params, as_pytree(vf), x0, x1, args).shape
        if shape != (recipe.batch,):
            raise ValueError(
                f"the {name} must return one number per sample, expected shape "
                f"{(recipe.batch,)}, got {shape}"
            )
