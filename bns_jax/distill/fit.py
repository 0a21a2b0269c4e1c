"""The search for a solver: batches in, the solver of the best validation out.

A second search of the same kind, as with another seed, start or other weights of the
field, compiles nothing; a loss of one's own is compiled for each search.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bns_jax import checkpoint as checkpoints
from bns_jax import ns, pairs, parallel
from bns_jax.distill.batch import Batch
from bns_jax.distill.compiled import jitted
from bns_jax.distill.distilled import Distilled
from bns_jax.distill.evaluate import mean_over_misses
from bns_jax.distill.evaluate import measure as measure_pairs
from bns_jax.distill.finite import report_not_finite
from bns_jax.distill.loop import Loop
from bns_jax.distill.losses import psnr_loss
from bns_jax.distill.objectives import AnyObjective, Metric
from bns_jax.distill.optimizer import Optimizer
from bns_jax.distill.record import RunRecord
from bns_jax.distill.report import Report, reporting
from bns_jax.distill.search import Search
from bns_jax.distill.state import TrainerState, initial_state
from bns_jax.distill.step import make_step
from bns_jax.distill.stopping import is_stale
from bns_jax.families import Family
from bns_jax.moved import moved
from bns_jax.pairs import Pairs
from bns_jax.problem import Problem
from bns_jax.typing import Progress, VelocityField

_OF_OPTIMIZER = "batch", "iterations", "evaluate_every", "patience", "microbatch"
OLD_KEYWORDS = {
    "loss": "objective=",
    "mesh": "bns_jax.Problem(field, mesh=mesh), in the place of the field",
    "progress": "report=",
    "callback": "report=distill.Report(validated=...)",
    "stop": "report=distill.Report(stop=...)",
    "weights": "train._replace(weights=...)",
} | {
    name: f"optimizer=distill.gauss_newton().replace({name}=...)"
    for name in _OF_OPTIMIZER
}
"""Those that `fit` had once, and their places."""


@moved(**OLD_KEYWORDS)
def fit(
    family: Family,
    vf: Problem | VelocityField,
    train: Pairs,
    validation: Pairs,
    *,
    optimizer: Optimizer | None = None,
    objective: AnyObjective = psnr_loss,
    metric: Metric | None = None,
    seed: int = 0,
    checkpoint: epath.PathLike | None = None,
    report: Report | Progress | None = None,
) -> Distilled:
    """Fits a family of solvers to ground-truth pairs.

    Args:
      family: where to search and from where; `families.bns(solver)`.
      vf: the field, called as vf(t, x, *args) with a batch and a scalar t, its weights
        through `jax.tree_util.Partial(apply, weights)`; or a `Problem`, over whose mesh
        batches are laid. Processes on several hosts give the same arguments.
      train: pairs to fit, each counting by its weight.
      validation: pairs that choose the iteration.
      optimizer: `gauss_newton()` if left out; its `replace` sets how long and on what
        it runs.
      objective: loss(x_n, x1) or loss(x_n, batch: distill.Batch) -> (batch,), minimized
        in the mean; or a `distill.Objective`.
      metric: of the same arguments, larger is better; the problem's PSNR if left out.
      seed: of the order of the pairs and the optimizer's own draws.
      checkpoint: a directory; the state is saved there at each validation, and a second
        call with the same arguments, compared as `identify` says, continues from it.
      report: report(done, total, note) or a `distill.Report`; a line on a terminal.

    Returns:
      The solver of the best validation, and how it was found; the start counts as one.

    Raises:
      TypeError: for what is no array or function, and for keywords of old.
      ValueError: before the first step, if something does not fit: numbers, pairs, the
        start of the family, what field, objective or metric return, the conditioning
        (`conditioning.check`), batch, microbatch and devices, a checkpoint of another
        run; later, if ten steps in a row are not finite: the state before is saved.
      OSError: if the state cannot be saved.
      Interrupted: if the report said stop.

    Warns:
      UserWarning: if validation pairs start from noise that training pairs start from.
    """
    search = Search.of(
        family,
        vf,
        train,
        validation,
        optimizer=optimizer,
        objective=objective,
        metric=metric,
        seed=seed,
    )
    search.check()
    with reporting(report) as told:
        return _Run(search, told).from_start(checkpoint)


@moved(**OLD_KEYWORDS)
def identify(
    family: Family,
    vf: Problem | VelocityField,
    train: Pairs,
    validation: Pairs,
    **settings: Any,
) -> dict[str, Any]:
    """What tells the result of `fit` with these arguments from others.

    Field, objective, metric and optimizer are told apart by name, weights and what they
    answer on a few samples, within 0.1 %. `fit` keeps it with its checkpoints and gives
    it in `Distilled.identity`; compare by `bns_jax.identity.check_same`.

    Args:
      family: these are as in `fit`.
      vf: the field or problem.
      train: pairs to fit.
      validation: pairs that choose the iteration.
      **settings: optimizer, objective, metric and seed of `fit`.

    Returns:
      JSON values.
    """
    return Search.of(family, vf, train, validation, **settings).identity()


class _Run:
    """A search that runs: its compiled functions, on the devices."""

    def __init__(self, search: Search, report: Report):
        """Traces nothing yet.

        Args:
          search: what is searched.
          report: whom to tell.
        """
        self.search, self.report = search, report
        self.mesh, self.vf = search.problem.mesh, search.problem.place()
        self.to_params = jitted(search.family.to_params)
        self.step = make_step(search.trainer, search.task, self.mesh)

    def from_start(self, checkpoint: epath.PathLike | None) -> Distilled:
        """All of it, or what a checkpoint leaves to do."""
        search, optimizer = self.search, self.search.optimizer
        identity = search.identity()
        start = initial_state(search.family, search.trainer, search.seed)
        state = parallel.replicate(start, self.mesh)
        self.check_step(state)
        with checkpoints.Checkpointer(checkpoint) as saver:
            record = RunRecord(saver, identity, optimizer.iterations)
            state = record.resume(state)
            if not record.history:
                state = self.measure(record, state)
            loop = Loop(
                step=partial(self.step, self.vf),
                batch=self.batch,
                iterations=optimizer.iterations,
                every=optimizer.evaluate_every,
                measure=partial(self.measure, record),
                save=record.save,
                fail=self.fail,
                stop=self.report.stop,
                is_over=lambda: is_stale(record.history, optimizer.patience),
                losses=record.recent,
            )
            measured = not record.losses
            state = loop.run(state, int(state.step), measured, record.losses.append)
            return self.result(record, state)

    def batch(self, iteration: int) -> Batch:
        """The pairs of one step, on the devices."""
        return parallel.shard(self.search.batch(iteration), self.mesh)

    def check_step(self, state: TrainerState) -> None:
        """Traces a step: what does not fit, it says before anything is done.

        Laid out as in a step, so that the first one finds it traced.
        """
        self.search.check_shapes(self.vf)
        jax.eval_shape(self.step, self.vf, state, self.batch(0))

    def measure(self, record: RunRecord, state: TrainerState) -> TrainerState:
        """Validates a solver, keeps it if it is the best yet, and saves the state."""
        search = self.search
        params = self.solver(state)
        values = measure_pairs(
            params, self.vf, search.validation, search.metric, self.mesh
        )
        value = mean_over_misses(values)
        if int(state.step) == 0 and not value > -math.inf:
            sample = int(np.argmin(np.isfinite(values)))
            raise ValueError(
                f"the metric of the start is {values[sample]} on validation pair "
                f"{sample}: the field or the metric is not finite there"
            )
        if value > state.best_metric:
            state = self._with_best(state, value)
        row = record.add(state, value, int(state.step) * search.cost)
        # Before the save: a run that dies between them gives the row again.
        self.report.validated(row, params)
        record.save(state)
        total = search.optimizer.iterations
        self.report(row.iteration, total, f"validation {value:.2f}")
        return state

    def solver(self, state: TrainerState) -> ns.NSParams:
        """The member of the family that theta is now, checked."""
        params = jax.tree.map(np.asarray, self.to_params(state.theta))
        try:
            ns.validate(params)
        except ValueError as error:
            error.add_note(f"The family gives this after {int(state.step)} steps.")
            raise
        return params

    def _with_best(self, state: TrainerState, value: float) -> TrainerState:
        best = np.asarray(value, state.best_metric.dtype)
        return state._replace(
            # A copy, because a step donates its state.
            best_theta=jax.tree.map(jnp.copy, state.theta),
            best_metric=parallel.replicate(best, self.mesh),
        )

    def fail(self, state: TrainerState, done: int, count: int) -> NoReturn:
        """Says where the last steps ceased to be finite."""
        params, batch = self.to_params(state.theta), self.batch(done - 1)
        report_not_finite(params, done, self.vf, batch, count)

    def result(self, record: RunRecord, state: TrainerState) -> Distilled:
        """The solver of the best validation, and how it was found."""
        search = self.search
        params = jax.tree.map(np.asarray, self.to_params(state.best_theta))
        best = max(record.history, key=lambda row: row.val_metric)
        seen = pairs.first(search.train, search.validation.size)
        trained = measure_pairs(params, self.vf, seen, search.metric, self.mesh)
        return Distilled(
            params,
            tuple(record.history),
            int(state.step) * search.cost,
            best.iteration,
            best.val_metric,
            record.identity,
            mean_over_misses(trained),
        )
