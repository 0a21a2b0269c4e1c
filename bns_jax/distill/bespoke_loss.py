"""The loss that bespoke scale-time solvers were trained with (arXiv:2310.19075)."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax import scalars
from bns_jax.distill.batch import Batch
from bns_jax.distill.objectives import Objective, ToParams
from bns_jax.families.bst import BSTTheta, by_step, find_base, knots_of
from bns_jax.families.spline import check_covers, interpolate
from bns_jax.ns import NSParams, from_solver, sample
from bns_jax.typing import Sample, VelocityField, wider


def bespoke_loss(base: str, *, lipschitz: float = 1.0) -> Objective:
    """A bound on the global error of a member of `bst` (arXiv:2310.19075).

    A step takes the error e_i of its start to at most

        e_{i+1} = L_i e_i + d_i,    e_0 = 0,

    d_i the error of that step alone, made from the true x(t_i) and compared with the
    true x(t_{i+1}), and L_i the Lipschitz constant of the step; the loss is e_n. Errors
    are root mean squares over all entries of a sample. L_i follows from the step's own
    coefficients, and so is never above what the Lipschitz constants |s'| / s + t' L of
    the transformed field give.

    The steps start from known points and run in parallel: nothing is differentiated
    through the rollout. It costs nfe field calls per sample, in batches n times as
    large, with n the number of steps.

    Args:
      base: of the family, "euler" or "midpoint".
      lipschitz: a Lipschitz constant of the field in x; e_n is a bound if it truly is.

    Returns:
      An objective for `fit`. The true trajectory between the saved points is a cubic
      spline, so at least 4 of them are needed.

    Raises:
      ValueError: if `base` is another name or `lipschitz` is negative; from the loss,
        if theta is of no whole number of steps, or the path has fewer than 4 points
        or does not lead from 0 to 1.
    """
    find_base(base)
    lipschitz = scalars.finite("lipschitz", lipschitz)
    if not lipschitz >= 0:
        raise ValueError(f"lipschitz must not be negative, got {lipschitz}")
    return Objective(_bound, _Rollout(base, lipschitz))


class _Steps(NamedTuple):
    """What single steps from the true trajectory make, for each of n steps.

    Attributes:
      reached: leaves (n, batch, ...).
      ends: the true points that they should reach, likewise.
      lipschitz: (n,), a Lipschitz constant of each.
    """

    reached: Sample
    ends: Sample
    lipschitz: jax.Array


@dataclasses.dataclass(frozen=True)
class _Rollout:
    base: str
    lipschitz: float

    def __call__(
        self, to_params: ToParams, theta: BSTTheta, vf: VelocityField, batch: Batch
    ) -> _Steps:
        """Each step of the solver, from the true point where it starts."""
        del to_params
        if not isinstance(theta, BSTTheta):
            raise ValueError(
                "bespoke_loss is one of members of families.bst, got those of "
                f"{type(theta).__name__}"
            )
        base_step, stages = find_base(self.base, len(theta.rates))
        times = np.asarray(batch.path.times)
        check_covers(times)
        points = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), batch.path.points)
        knots, h = knots_of(theta), stages / len(theta.rates)
        x = interpolate(times, points, knots.t[::stages])
        starts = jax.tree.map(lambda leaf: leaf[:-1], x)
        ends = jax.tree.map(lambda leaf: leaf[1:], x)

        trace = jax.vmap(lambda k: from_solver(partial(base_step, k, h), stages))
        steps = trace(by_step(knots, stages))
        run = jax.vmap(lambda step, x: sample(step, vf, x, *batch.args))
        L = jax.vmap(partial(_step_lipschitz, self.lipschitz))(steps)
        return _Steps(run(steps, starts), ends, L)


def _bound(steps: _Steps, batch: Batch) -> jax.Array:
    """The bound e_n of each sample."""
    del batch
    d = _root_mean_square(steps.reached, steps.ends)
    error = jnp.zeros_like(d[0])
    for L_i, d_i in zip(steps.lipschitz.astype(d.dtype), d, strict=True):
        error = L_i * error + d_i
    return error


def _step_lipschitz(lipschitz: float, step: NSParams) -> jax.Array:
    """A Lipschitz constant of a step, given one of the field.

    Where two starts are 1 apart, the x_{i+1} are |a_i| + L sum_j |b_ij| l_j apart at
    most, l_j the same bound for x_j.
    """
    apart = [jnp.ones_like(step.a[0])]
    for a_i, b_i in zip(jnp.abs(step.a), jnp.abs(step.b), strict=True):
        moved = sum(b_ij * l_j for b_ij, l_j in zip(b_i, apart, strict=False))
        apart.append(a_i + lipschitz * moved)
    return apart[-1]


def _root_mean_square(x: Sample, target: Sample) -> jax.Array:
    """The distance over all entries of a sample, (n, batch) from (n, batch, ...)."""

    def squares(x: jax.Array, target: jax.Array) -> jax.Array:
        wide = wider(x.dtype, jnp.float32)
        error = x.astype(wide) - target.astype(wide)
        return jnp.sum(jnp.square(error), axis=tuple(range(2, x.ndim)))

    leaves = jax.tree.leaves(jax.tree.map(squares, x, target))
    entries = sum(leaf[0, 0].size for leaf in jax.tree.leaves(target))
    mean = sum(leaves[1:], leaves[0]) / entries
    # A step without error then has the gradient 0, not 0 / 0.
    return jnp.sqrt(mean + jnp.finfo(mean.dtype).tiny)
