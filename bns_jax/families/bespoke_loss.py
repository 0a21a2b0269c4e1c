"""The loss that bespoke scale-time solvers were trained with (arXiv:2310.19075)."""

from __future__ import annotations

import abc
import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bns_jax import scalars
from bns_jax.families.bst import BSTTheta, by_step, find_base, knots_of
from bns_jax.families.spline import check_covers, interpolate
from bns_jax.ns import NSParams, from_solver, sample
from bns_jax.typing import Array, Sample, VelocityField, wider


class PathLoss(abc.ABC):
    """A loss that looks at the whole true trajectory, not at its end alone."""

    @abc.abstractmethod
    def __call__(
        self,
        theta: Any,
        vf: VelocityField,
        times: Array,
        path: Sample,
        args: tuple[Any, ...] = (),
    ) -> jax.Array:
        """One number per sample.

        Args:
          theta: of the family.
          vf: called as vf(t, x, *args) with a scalar t and a batch.
          times: (K,), increasing from 0 to 1; those of `Pairs.times`.
          path: the true trajectory at these times, leaves (K, batch, ...).
          args: conditioning of the batch.

        Returns:
          (batch,).
        """


def bespoke_loss(base: str, *, lipschitz: float = 1.0) -> PathLoss:
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
      loss(theta, vf, times, path, args) -> (batch,). The true trajectory between the
      saved points is a cubic spline, so at least 4 of them are needed.

    Raises:
      ValueError: if `base` is another name or `lipschitz` is negative; from the loss,
        if theta is of no whole number of steps, or the path has fewer than 4 points
        or does not lead from 0 to 1.
    """
    find_base(base)
    lipschitz = scalars.finite("lipschitz", lipschitz)
    if not lipschitz >= 0:
        raise ValueError(f"lipschitz must not be negative, got {lipschitz}")
    return _BespokeLoss(base, lipschitz)


@dataclasses.dataclass(frozen=True)
class _BespokeLoss(PathLoss):
    base: str
    lipschitz: float

    def __call__(
        self,
        theta: BSTTheta,
        vf: VelocityField,
        times: Array,
        path: Sample,
        args: tuple[Any, ...] = (),
    ) -> jax.Array:
        base_step, stages = find_base(self.base, len(theta.rates))
        check_covers(times)
        knots, h = knots_of(theta), stages / len(theta.rates)
        x = interpolate(times, path, knots.t[::stages])
        starts = jax.tree.map(lambda leaf: leaf[:-1], x)
        ends = jax.tree.map(lambda leaf: leaf[1:], x)

        trace = jax.vmap(lambda k: from_solver(partial(base_step, k, h), stages))
        steps = trace(by_step(knots, stages))
        reached = jax.vmap(lambda step, x: sample(step, vf, x, *args))(steps, starts)
        d = _root_mean_square(reached, ends)
        L = jax.vmap(partial(_step_lipschitz, self.lipschitz))(steps).astype(d.dtype)
        error = jnp.zeros_like(d[0])
        for L_i, d_i in zip(L, d, strict=True):
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
