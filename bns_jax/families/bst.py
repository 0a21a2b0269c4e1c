"""Bespoke scale-time solvers (Shaul et al., 2023, arXiv:2310.19075).

One base method under a learnable scale-time transformation x_bar(r) = s_r x(t_r), of
which a solver only ever sees the values and the derivatives at its own knots in r.
Those numbers are what is learned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax.families.base import Family
from bns_jax.ns import NSParams, from_solver
from bns_jax.typing import Array, Sample, VelocityField


class BSTTheta(NamedTuple):
    """The 4 nfe - 1 free numbers of a bespoke scale-time solver; all 0 at its start.

    There is one knot r_k = k / nfe per evaluation, and one more at r = 1. Steps,
    rates and scales are logarithms, so that any numbers give increasing times and
    positive rates and scales, and each choice of knots has one theta.

    Attributes:
      steps: (nfe - 1,), log of t_{k+1} - t_k relative to the last such step.
      rates: (nfe,), log of t'_k.
      scales: (nfe,), log of s_1 .. s_nfe; s_0 = 1.
      slopes: (nfe,), s'_k.
    """

    steps: Array
    rates: Array
    scales: Array
    slopes: Array


class Knots(NamedTuple):
    """A scale-time transformation at the knots of a solver, or of one of its steps.

    Attributes:
      t: times, one at the end included.
      s: scales, likewise.
      d_t: derivatives of the time, one per evaluation.
      d_s: derivatives of the scale, likewise.
    """

    t: Array
    s: Array
    d_t: Array
    d_s: Array


def knots_of(theta: BSTTheta) -> Knots:
    """The transformation that theta stands for, with t_0 = 0, t_nfe = 1, s_0 = 1.

    Args:
      theta: the free numbers.

    Returns:
      t and s (nfe + 1,), d_t and d_s (nfe,).
    """
    last = jnp.zeros_like(theta.rates[:1])
    steps = jax.nn.softmax(jnp.concatenate([theta.steps, last]))
    # Parallel sums may disorder times, or pass 1, by a unit in the last place.
    inner = jnp.sort(jnp.minimum(jnp.cumsum(steps)[:-1], 1.0))
    t = jnp.concatenate([last, inner, last + 1.0])
    s = jnp.concatenate([last + 1.0, jnp.exp(theta.scales)])
    return Knots(t, s, jnp.exp(theta.rates), theta.slopes)


def _euler(knots: Knots, h: float, vf: VelocityField, x: Sample) -> Sample:
    (t, _), (s, s_next), (d_t,), (d_s,) = knots
    return ((s + h * d_s) * x + h * d_t * s * vf(t, x)) / s_next


def _midpoint(knots: Knots, h: float, vf: VelocityField, x: Sample) -> Sample:
    (t, t_mid, _), (s, s_mid, s_next), (d_t, d_t_mid), (d_s, d_s_mid) = knots
    z = (s + h / 2 * d_s) * x + h / 2 * d_t * s * vf(t, x)
    velocity = d_s_mid / s_mid * z + d_t_mid * s_mid * vf(t_mid, z / s_mid)
    return (s * x + h * velocity) / s_next


class Base(NamedTuple):
    """A method that runs under the transformation.

    Attributes:
      step: step(knots, h, vf, x) -> x, from x(t_i) to x(t_{i+1}).
      stages: evaluations per step.
    """

    step: Callable[[Knots, float, VelocityField, Sample], Sample]
    stages: int


_BASES = {"euler": Base(_euler, 1), "midpoint": Base(_midpoint, 2)}


def find_base(name: str, nfe: int | None = None) -> Base:
    """Looks a method up, and checks that nfe evaluations are whole steps of it.

    Args:
      name: "euler" or "midpoint".
      nfe: evaluations in all; not looked at if None.

    Returns:
      The method.

    Raises:
      ValueError: if there is no such method, or nfe is no positive multiple of its
        stages.
    """
    if name not in _BASES:
        raise ValueError(f"base must be one of {', '.join(_BASES)}, got {name!r:.60}")
    base = _BASES[name]
    if nfe is not None and (nfe < 1 or nfe % base.stages):
        raise ValueError(
            f"{name} takes {base.stages} evaluations per step: nfe must be a positive "
            f"multiple of {base.stages}, got {nfe}"
        )
    return base


def by_step(knots: Knots, stages: int) -> Knots:
    """The knots of each step, on a new leading axis; neighbours share one.

    Args:
      knots: of a whole solver.
      stages: evaluations per step.

    Returns:
      t and s (steps, stages + 1), d_t and d_s (steps, stages).
    """
    first = np.arange(0, len(knots.d_t), stages)[:, None]
    inside = first + np.arange(stages)[None]
    closed = first + np.arange(stages + 1)[None]
    return Knots(knots.t[closed], knots.s[closed], knots.d_t[inside], knots.d_s[inside])


def bst(base: str, nfe: int) -> Family:
    """Bespoke scale-time solvers (arXiv:2310.19075), starting from the base method.

    With h the step in r, a step of Euler's method on x_bar reads, in x,

        x_{i+1} = ((s_i + h s'_i) x_i + h t'_i s_i u(t_i, x_i)) / s_{i+1}.

    The midpoint method has knots at half steps too. Values and derivatives are free
    of one another, which leaves 4 n - 1 and 8 n - 1 numbers in n steps; some of them
    act alike, so that the solvers vary in 3 n - 1 and 7 n - 1 directions.

    Args:
      base: "euler" or "midpoint".
      nfe: evaluations in all; even for the midpoint method.

    Returns:
      The family; theta is zeros, JAX arrays, float32 unless x64 is on.

    Raises:
      ValueError: if `base` is another name, or nfe is not a positive multiple of its
        evaluations per step.
    """
    method = find_base(base, nfe)
    theta = BSTTheta(*map(jnp.zeros, (nfe - 1, nfe, nfe, nfe)))
    return Family(theta, _Transformed(method))


@dataclasses.dataclass(frozen=True)
class _Transformed:
    """The base method under the transformation that theta is."""

    __name__ = "to_params"
    base: Base

    def __call__(self, theta: BSTTheta) -> NSParams:
        nfe, (step, stages) = len(theta.rates), self.base
        steps = [*map(Knots, *by_step(knots_of(theta), stages))]

        def algorithm(vf: VelocityField, x: Sample) -> Sample:
            for knots_i in steps:
                x = step(knots_i, stages / nfe, vf, x)
            return x

        return from_solver(algorithm, nfe)
