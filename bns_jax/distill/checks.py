"""What `fit` checks of its input before any work."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import jax
import numpy as np

from bns_jax import notices, ns, pairs
from bns_jax.checks import check_per_sample
from bns_jax.distill.evaluate import score
from bns_jax.distill.objectives import BatchFunction
from bns_jax.distill.optimizer import Goal, Optimizer
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs


def check_inputs(
    optimizer: Optimizer, theta: Any, start: NSParams, train: Pairs, validation: Pairs
) -> None:
    """Everything that can be wrong with the data, found before the work starts.

    Args:
      optimizer: of the run.
      theta: where it starts, in the numbers of the family.
      start: the same as a solver.
      train: pairs.
      validation: pairs; some from noise of training pairs are warned of.

    Raises:
      TypeError: if pairs are none, or hold what is no number.
      ValueError: if pairs do not belong together, the start is no valid solver, there
        are fewer residuals than parameters, or the batch does not fit the pairs or the
        microbatch the batch.
    """
    check_pairs(train, validation)
    batch = optimizer.batch_of(train.size)
    if batch > train.size:
        raise ValueError(
            f"batch is larger than the data: expected at most {train.size} training "
            f"pairs, got {batch}"
        )
    ns.validate(start)
    check_residuals(train, sum(np.size(leaf) for leaf in jax.tree.leaves(theta)))
    if optimizer.microbatch is not None and batch % optimizer.microbatch:
        raise ValueError(
            f"microbatch must divide the batch of {batch}, got {optimizer.microbatch}"
        )
    repeated = np.isin(_row_hashes(validation), _row_hashes(train)).sum()
    if repeated:
        notices.warn(
            f"{repeated} of the {validation.size} validation pairs start from noise "
            "that training pairs start from too: the validation is no longer fair",
        )


def check_pairs(train: Pairs, validation: Pairs) -> None:
    """Checks that pairs belong together, and that both are of one kind of sample.

    Args:
      train: pairs.
      validation: pairs.

    Raises:
      TypeError: if these are none, or hold what is no number.
      ValueError: if pairs do not belong together, or samples or conditioning of the two
        differ in tree or shape.
    """
    for data in (train, validation):
        pairs.check(data)
    of_train, of_validation = (
        jax.tree.map(lambda leaf: np.shape(leaf)[1:], (data.x0, data.args))
        for data in (train, validation)
    )
    if of_train != of_validation:
        raise ValueError(
            "training and validation pairs must be of the same samples: expected "
            f"(x0, args) of {of_train}, got {of_validation}"
        )


def check_residuals(train: Pairs, free: int) -> None:
    """Refuses to fit more numbers than the training pairs have.

    Args:
      train: pairs.
      free: how many numbers a search changes.

    Raises:
      ValueError: if the samples have fewer numbers in all.
    """
    residuals = sum(np.size(leaf) for leaf in jax.tree.leaves(train.x1))
    if residuals < free:
        raise ValueError(
            f"{free} parameters cannot be fitted to {residuals} residuals: expected "
            f"more training pairs than {train.size}"
        )


def check_shapes(
    goal: Goal, theta: Any, start: NSParams, metric: BatchFunction
) -> None:
    """Checks the field, the objective and the metric without computing anything.

    Args:
      goal: an example of the objective on a batch.
      theta: where it starts, in the numbers of the family.
      start: the same as a solver.
      metric: of a batch.

    Raises:
      ValueError: if the field returns another tree, shape or dtype than that of x, or
        the objective or the metric no number per sample.
    """
    batch, scored = goal.batch, partial(score, metric, start, goal.vf)
    returned = {
        "objective": jax.eval_shape(goal.losses, theta, batch),
        "metric": jax.eval_shape(scored, batch),
    }
    for name, values in returned.items():
        check_per_sample(values, len(batch.weights), name)


def _row_hashes(data: Pairs) -> np.ndarray:
    """One digest per sample of x0 and args."""
    leaves = jax.tree.leaves((data.x0, data.args))
    rows = [np.ascontiguousarray(leaf) for leaf in leaves]
    return np.array(
        [
            hashlib.sha256(b"".join(leaf[i].tobytes() for leaf in rows)).hexdigest()
            for i in range(data.size)
        ]
    )
