"""A velocity field as a function of all the arrays that it reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from bns_jax.checks import check_velocity
from bns_jax.typing import Array, Sample, VelocityField


class TracedField(NamedTuple):
    """A field that was traced once, to be evaluated as often as one likes.

    Attributes:
      evaluate: evaluate(arrays, t, x) -> u; it closes over no tracer.
      arrays: its weights, the conditioning, and what it closed over.
      convolves: whether it has a convolution in it.
      is_small: whether it computes no more on the way, and in no loop, than three
        arrays like x: what a loop over its evaluations would store of each.
    """

    evaluate: Callable[[list[Any], Array, Sample], Sample]
    arrays: list[Any]
    convolves: bool
    is_small: bool


def trace(vf: VelocityField, t: Array, x: Sample, args: tuple[Any, ...]) -> TracedField:
    """Traces a field.

    What it closes over from outer traces comes out among the arrays, and so has its
    derivatives too.

    Args:
      vf: the field, a pytree.
      t: a time, of the dtype that it will be called with.
      x: a sample, likewise.
      args: conditioning.

    Returns:
      The field, and its arrays.

    Raises:
      ValueError: if it does not return something like x.
    """
    leaves, tree = jax.tree.flatten((vf, args))

    def call(leaves: list[Any], t: Array, x: Sample) -> Sample:
        vf, args = jax.tree.unflatten(tree, leaves)
        u = vf(t, x, *args)
        check_velocity(u, x, t)
        return u

    traced = jax.make_jaxpr(call)(leaves, t, x)
    closed_over = len(traced.consts)

    def evaluate(arrays: list[Any], t: Array, x: Sample) -> Sample:
        x_leaves, x_tree = jax.tree.flatten(x)
        consts, leaves = arrays[:closed_over], arrays[closed_over:]
        u = jax.core.eval_jaxpr(traced.jaxpr, consts, *leaves, t, *x_leaves)
        return jax.tree.unflatten(x_tree, u)

    equations = list(_equations(traced.jaxpr))
    names = {equation.primitive.name for equation in equations}
    outputs = [out.aval for equation in equations for out in equation.outvars]
    computed = sum(math.prod(getattr(aval, "shape", ())) for aval in outputs)
    most = 3 * sum(leaf.size for leaf in jax.tree.leaves(x))
    return TracedField(
        evaluate,
        [*traced.consts, *leaves],
        convolves="conv_general_dilated" in names,
        is_small=computed <= most and not names & {"scan", "while"},
    )


def _equations(jaxpr: Any) -> Iterator[Any]:
    """The operations of a program: loops, and of other programs those inside."""
    for equation in jaxpr.eqns:
        inside = _programs(equation.params)
        if not inside or equation.primitive.name in ("scan", "while"):
            yield equation
        for program in inside:
            yield from _equations(program)


def _programs(params: dict[str, Any]) -> list[Any]:
    """The programs among the parameters of an operation: bodies, branches, calls."""
    leaves = jax.tree.leaves(list(params.values()))
    closed = [getattr(leaf, "jaxpr", leaf) for leaf in leaves]
    return [leaf for leaf in closed if hasattr(leaf, "eqns")]
