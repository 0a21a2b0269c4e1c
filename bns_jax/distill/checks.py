"""What `fit` checks of its input before any work."""

from __future__ import annotations

import hashlib
import warnings
from functools import partial

import jax
import numpy as np

from bns_jax import ns, pairs, scalars
from bns_jax.checks import check_per_sample
from bns_jax.distill.evaluate import score
from bns_jax.distill.optimizer import Metric, Objective
from bns_jax.distill.state import Recipe
from bns_jax.families import Family
from bns_jax.pairs import Pairs

_LEAST_WEIGHT = 1e-30
"""Less would be 0 in float32."""


def check_inputs(
    recipe: Recipe,
    family: Family,
    train: Pairs,
    validation: Pairs,
    weights: np.ndarray,
    microbatch: int | None,
    patience: int | None,
) -> None:
    """Everything that can be wrong with the data, found before the work starts."""
    if patience is not None:
        scalars.count("patience", patience)
    for data in (train, validation):
        pairs.check(data)
    if recipe.batch > train.size:
        raise ValueError(
            f"batch is larger than the data: expected at most {train.size} training "
            f"pairs, got {recipe.batch}"
        )
    ns.validate(family.to_params(family.theta))
    residuals = sum(np.size(leaf) for leaf in jax.tree.leaves(train.x1))
    free = sum(np.size(leaf) for leaf in jax.tree.leaves(family.theta))
    if residuals < free:
        raise ValueError(
            f"{free} parameters cannot be fitted to {residuals} residuals: expected "
            f"more training pairs than {train.size}"
        )
    if weights.shape != (train.size,):
        raise ValueError(
            "weights must be one number per training pair, expected shape "
            f"{(train.size,)}, got {weights.shape}"
        )
    if not (np.all(np.isfinite(weights)) and np.all(weights > 0)):
        raise ValueError("weights must be positive and finite")
    if microbatch is not None and recipe.batch % scalars.count(
        "microbatch", microbatch
    ):
        raise ValueError(
            f"microbatch must divide the batch of {recipe.batch}, got {microbatch}"
        )
    repeated = np.isin(_row_hashes(validation), _row_hashes(train)).sum()
    if repeated:
        warnings.warn(
            f"{repeated} of the {validation.size} validation pairs start from noise "
            "that training pairs start from too: the validation is no longer fair",
            stacklevel=3,
        )


def check_shapes(objective: Objective, family: Family, metric: Metric) -> None:
    """Checks the field, the loss and the metric without computing anything."""
    rows, params = objective.rows, family.to_params(family.theta)
    batch = len(rows.weights)
    scored = partial(score, metric, params, objective.vf)
    returned = {
        "loss": jax.eval_shape(objective.losses, family.theta, rows),
        "metric": jax.eval_shape(scored, rows.x0, rows.x1, rows.args),
    }
    for name, values in returned.items():
        check_per_sample(values, batch, name)


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
