"""A search: a problem, a family, pairs, an objective and a method."""

from __future__ import annotations

import dataclasses
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from bns_jax import identity, parallel, scalars
from bns_jax.checks import check_floating
from bns_jax.distill.batch import Batch, of_rows, reads_path
from bns_jax.distill.checks import check_inputs, check_shapes
from bns_jax.distill.compiled import jitted
from bns_jax.distill.gauss_newton import gauss_newton
from bns_jax.distill.losses import psnr_loss
from bns_jax.distill.objectives import (
    AnyObjective,
    BatchFunction,
    Metric,
    Objective,
    as_batch_function,
    as_objective,
    bare,
    named,
)
from bns_jax.distill.optimizer import Optimizer, Trainer
from bns_jax.distill.step import Task
from bns_jax.families import Family
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs
from bns_jax.problem import Problem
from bns_jax.pytree import checksum
from bns_jax.typing import Sample, VelocityField


@dataclasses.dataclass(frozen=True)
class Search:
    """What is searched and how; nothing of it changes while the search runs.

    Attributes:
      problem: to sample from.
      family: where to search and from where.
      train: pairs to fit.
      validation: pairs that choose the iteration.
      optimizer: the method, and how long it runs.
      objective: what is minimized in the mean.
      metric: what solvers are judged by.
      seed: of the order of the pairs and the trainer's own draws.
    """

    problem: Problem
    family: Family
    train: Pairs
    validation: Pairs
    optimizer: Optimizer
    objective: Objective
    metric: BatchFunction
    seed: int

    @classmethod
    def of(
        cls,
        family: Family,
        vf: Problem | VelocityField,
        train: Pairs,
        validation: Pairs,
        *,
        optimizer: Optimizer | None = None,
        objective: AnyObjective = psnr_loss,
        metric: Metric | None = None,
        seed: int = 0,
    ) -> Search:
        """The search that `fit` is asked for.

        Args:
          family: these and all that follow are as in `fit`.
          vf: the field, or a `Problem`.
          train: pairs to fit.
          validation: pairs that choose the iteration.
          optimizer: `gauss_newton()` if left out.
          objective: what is minimized.
          metric: what is validated; that of the problem if left out.
          seed: of the run.

        Returns:
          The search; nothing is computed yet.

        Raises:
          TypeError: if objective or metric are no functions.
          ValueError: if something else is of another kind than expected, theta of
            another dtype than floating-point ones.
        """
        if not isinstance(family, Family):
            raise ValueError(
                "expected a family, such as families.bns(solver), got "
                f"{type(family).__name__}"
            )
        if not isinstance(optimizer, Optimizer | None):
            raise ValueError(
                "expected an optimizer, such as distill.gauss_newton(), got "
                f"{optimizer!r:.60}"
            )
        check_floating("theta", family.theta)
        problem = Problem.of(vf)
        return cls(
            problem,
            family,
            train,
            validation,
            optimizer or gauss_newton(),
            as_objective(objective),
            as_batch_function(problem.metric if metric is None else metric),
            scalars.count("seed", seed, least=0),
        )

    def check(self) -> None:
        """What can be wrong with it, before anything is computed."""
        data = self.train, self.validation
        check_inputs(self.optimizer, self.family.theta, self.start, *data)
        if self.optimizer.microbatch is not None:
            parallel.check_divisible(self.optimizer.microbatch, self.problem.mesh)
        self.problem.check_args(self.validation.args)

    def check_shapes(self, vf: Any) -> None:
        """Traces field, objective and metric, and checks what they return.

        Args:
          vf: the field, on its devices.

        Raises:
          ValueError: naming what returns another shape, tree or dtype.
        """
        goal = self.task.on(vf, self.batch(0))
        check_shapes(goal, self.family.theta, self.start, self.metric)

    @cached_property
    def start(self) -> NSParams:
        """The solver that it starts from."""
        return self.family.to_params(self.family.theta)

    @property
    def nfe(self) -> int:
        """Evaluations of the solver."""
        return len(self.start.a)

    @property
    def batch_size(self) -> int:
        """Pairs per step."""
        return self.optimizer.batch_of(self.train.size)

    @cached_property
    def trainer(self) -> Trainer:
        """The steps of the method."""
        return self.optimizer.trainer(self.optimizer.iterations)

    @property
    def cost(self) -> int:
        """Field calls of one step; see `Distilled.forwards`."""
        return self.trainer.cost * self.nfe * self.batch_size

    @cached_property
    def reads_path(self) -> bool:
        """Whether the objective looks at the true trajectories."""
        losses = partial(_Losses(self.task), self.family.theta)
        return reads_path(losses, of_rows(self.train, np.arange(1)))

    @property
    def task(self) -> Task:
        """What is fitted to what."""
        microbatch = self.optimizer.microbatch
        return Task(self.family.to_params, self.objective, microbatch)

    def batch(self, iteration: int) -> Batch:
        """The pairs of one step, filled up by such of weight 0 to what devices divide.

        A function of the step alone, so that runs resume.

        Args:
          iteration: steps done.

        Returns:
          A batch of NumPy arrays.
        """
        size = self.batch_size
        epoch, index = divmod(iteration, self.train.size // size)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.train.size)
        rows = order[index * size : (index + 1) * size]
        missing = -size % parallel.batch_devices(self.problem.mesh)
        rows = np.pad(rows, (0, missing), mode="edge")
        batch = of_rows(self.train, rows, with_path=self.reads_path)
        batch.weights[size:] = 0
        return batch

    def identity(self) -> dict[str, Any]:
        """What tells its result from that of others, as JSON values.

        Returns:
          JSON values by name; see `bns_jax.identity`.
        """
        train, validation, theta = self.train, self.validation, self.family.theta
        one = np.arange(1)
        on_train, on_validation = of_rows(train, one), of_rows(validation, one)
        path = (train.times, train.path) if self.reads_path else ()
        weights = train.weights_or_ones
        steps = self.trainer.probe(theta) if self.trainer.probe else []
        losses = jitted(_Losses(self.task))(theta, on_train)
        judged = jitted(self.metric)(on_validation.x0, on_validation)
        return {
            "batch": self.batch_size,
            "iterations": self.optimizer.iterations,
            "evaluate_every": self.optimizer.evaluate_every,
            "seed": self.seed,
            "optimizer": self.optimizer.name,
            f"optimizer_{identity.PROBE}": steps,
            **identity.of_function(
                "loss", named(self.objective), identity.probe(losses)
            ),
            **identity.of_function("metric", bare(self.metric), identity.probe(judged)),
            "nfe": self.nfe,
            "start": checksum((theta, self.start)),
            **self.problem.identity(train.x0, train.args),
            "train": checksum((train.x0, train.x1, train.args, weights, *path)),
            "validation": checksum((validation.x0, validation.x1, validation.args)),
        }


@dataclasses.dataclass(frozen=True)
class _Losses:
    """What a loss answers where x_n is the noise; others are told of x' = -x."""

    __name__ = "losses"
    task: Task

    def __call__(self, theta: Any, batch: Batch) -> jax.Array:
        objective, x = self.task.objective, batch.x0
        if not objective.is_of_end:
            x = objective.rollout(self.task.to_params, theta, _decay, batch)
        return objective.loss(x, batch)


def _decay(t: Any, x: Sample, *args: Any) -> Sample:
    del t, args
    return jax.tree.map(lambda leaf: -leaf, x)
