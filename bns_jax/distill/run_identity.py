"""What a run is of: recipe, field, pairs, start, loss. Kept with all that it writes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bns_jax import identity, parallel, probing, scalars
from bns_jax.distill.gauss_newton import gauss_newton
from bns_jax.distill.losses import psnr_loss
from bns_jax.distill.optimizer import Loss, Metric, Optimizer
from bns_jax.distill.state import Recipe
from bns_jax.families import Family, PathLoss
from bns_jax.identity import Probe
from bns_jax.metrics import psnr
from bns_jax.pairs import Pairs
from bns_jax.pytree import as_pytree, checksum
from bns_jax.typing import Sample, VelocityField


def identify(
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
    weights: np.ndarray | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """What tells the result of `fit` with these arguments from others.

    `fit` keeps it with its checkpoints and gives it in `Distilled.identity`. Compare
    by `bns_jax.identity.check_same`.

    Args:
      family: these and all that follow are as in `fit`.
      vf: the field.
      train: pairs to fit.
      validation: pairs that choose the iteration.
      optimizer: `gauss_newton()` if left out.
      loss: what is minimized.
      batch: samples per step.
      iterations: steps.
      evaluate_every: steps between validations.
      metric: what is validated.
      seed: of the run.
      weights: of the training pairs.
      mesh: devices that the field is asked on.

    Returns:
      JSON values.
    """
    optimizer = optimizer or gauss_newton()
    recipe = plan(optimizer, train, batch, iterations, evaluate_every, seed)
    given, scaled = as_pytree(vf), pair_weights(train, weights)
    field = parallel.place(given, mesh)
    answers = probing.look(field, train.x0, train.args, mesh)
    run = Run(recipe, optimizer, family, train, validation, loss, metric, scaled)
    return run.identity(given, answers)


def plan(
    optimizer: Optimizer,
    train: Pairs,
    batch: int | None,
    iterations: int | None,
    evaluate_every: int | None,
    seed: int,
) -> Recipe:
    """What was asked for, else the optimizer's own.

    Raises:
      ValueError: if one is no whole number of at least 1, or the seed of at least 0.
    """
    asked = {
        "batch": optimizer.batch_of(train.size) if batch is None else batch,
        "iterations": optimizer.iterations if iterations is None else iterations,
        "evaluate_every": (
            optimizer.evaluate_every if evaluate_every is None else evaluate_every
        ),
    }
    counts = {name: scalars.count(name, value) for name, value in asked.items()}
    return Recipe(**counts, seed=scalars.count("seed", seed, least=0))


def pair_weights(train: Pairs, weights: np.ndarray | None) -> np.ndarray:
    """Weights of the training pairs, all 1 if left out."""
    return np.ones(train.size) if weights is None else np.asarray(weights)


class Run(NamedTuple):
    """What a run is of, but for its field; see `fit`."""

    recipe: Recipe
    optimizer: Optimizer
    family: Family
    train: Pairs
    validation: Pairs
    loss: Loss
    metric: Metric
    weights: np.ndarray

    def identity(self, vf: VelocityField, answers: Probe) -> dict[str, Any]:
        """As JSON values.

        Args:
          vf: the field as the user gave it.
          answers: its probe.
        """
        train, validation, theta = self.train, self.validation, self.family.theta
        path = (train.times, train.path) if isinstance(self.loss, PathLoss) else ()
        weights = self.weights / np.max(self.weights)
        params = self.family.to_params(theta)
        trainer = self.optimizer.trainer(self.recipe.iterations)
        steps = trainer.probe(theta) if trainer.probe else []
        of_loss = _answers_of_loss(self.loss, self.family, train)
        of_metric = _answers_of_end(self.metric, validation)
        return {
            **self.recipe._asdict(),
            "optimizer": self.optimizer.name,
            f"optimizer_{identity.PROBE}": steps,
            **identity.of_function("loss", self.loss, of_loss),
            **identity.of_function("metric", self.metric, of_metric),
            "nfe": len(params.a),
            "start": checksum((theta, params)),
            **identity.of_function("field", vf, answers),
            "train": checksum((train.x0, train.x1, train.args, weights, *path)),
            "validation": checksum((validation.x0, validation.x1, validation.args)),
        }


def _answers_of_loss(loss: Loss, family: Family, train: Pairs) -> Probe:
    """What a loss answers on sample 0; one of the path is told of a field x' = -x."""
    if not isinstance(loss, PathLoss):
        return _answers_of_end(loss, train)

    @jax.jit
    def on_first(theta: Any, path: Sample, args: Any) -> jax.Array:
        return loss(theta, _decay, train.times, path, args)

    path = jax.tree.map(lambda leaf: np.asarray(leaf[:, :1]), train.path)
    return identity.probe(on_first(family.theta, path, _first(train.args)))


def _answers_of_end(function: Any, data: Pairs) -> Probe:
    """What a function of (x_n, x1) answers where x_n is the noise of sample 0."""
    x, target = jax.tree.map(jnp.asarray, _first((data.x0, data.x1)))
    return identity.probe(function(x, target))


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf[:1]), tree)


def _decay(t: Any, x: Sample, *args: Any) -> Sample:
    del t, args
    return jax.tree.map(lambda leaf: -leaf, x)
