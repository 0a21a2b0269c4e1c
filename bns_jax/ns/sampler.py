"""The sampler that runs them all (Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bns_jax import derivatives
from bns_jax.checks import check_arrays, check_floating
from bns_jax.ns.iterates import iterates, unrolled
from bns_jax.ns.params import NSParams, check_shapes
from bns_jax.pytree import as_pytree
from bns_jax.traced_field import TracedField, trace
from bns_jax.typing import Sample, VelocityField, wider


def sample(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    """Runs a solver: x_n of Algorithm 1.

    The field is traced once, whatever the number of evaluations. Give the weights of
    a network through `jax.tree_util.Partial(apply, weights)`: they are then arguments
    of the compiled program, so that new weights compile nothing. A function that is
    made anew for each call, such as a `lambda` in a loop, compiles anew each time.

    Works under jit, vmap, grad, jvp, `jax.shard_map` and explicit meshes. Reverse mode
    stores three iterates per evaluation and evaluates the field again; on CPU, with
    convolutions or where a field computes little, what it computes on the way instead.

    Args:
      params: the solver; coefficients keep the dtype that JAX has for them, whatever
        that of x0. Their values are not checked, b above its diagonal is not read;
        `ns.validate` checks.
      vf: the velocity field, called as vf(t, x, *args) with a scalar t: of the dtype
        of x, or float32 where x is of 16 bits. It returns the tree, the shapes and
        the dtypes of x, or the dtypes that x and t promote to.
      x0: noise, a pytree of floating-point arrays; batch axes are its own affair.
      *args: conditioning, a pytree each, handed to `vf` unchanged.

    Returns:
      The sample, like x0 in tree, shapes, dtypes and sharding.

    Raises:
      ValueError: if the arrays of `params` have shapes that disagree, x0 has a leaf
        that is not of a floating-point dtype, or the field returns something else.
      TypeError: if a leaf of x0 or *args is no array of numbers.
    """
    return _solve(_nothing, params, vf, x0, args)[0]


def sample_path(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    """Like `sample`, but returns every iterate.

    Returns:
      x_1 .. x_n stacked on a new leading axis.
    """
    return _solve(_iterate, params, vf, x0, args)[1]


def sample_velocities(
    params: NSParams, vf: VelocityField, x0: Sample, *args: Any
) -> tuple[Sample, Sample]:
    """Like `sample`, and returns the velocities it met.

    Returns:
      x_n, and u_0 .. u_{n-1} stacked on a new leading axis.
    """
    return _solve(_velocity, params, vf, x0, args)


def _nothing(x: Sample, u: Sample) -> None:
    return None


def _iterate(x: Sample, u: Sample) -> Sample:
    return x


def _velocity(x: Sample, u: Sample) -> Sample:
    return u


def _solve(
    keep: Callable[[Sample, Sample], Any],
    params: NSParams,
    vf: VelocityField,
    x0: Sample,
    args: tuple[Any, ...],
) -> tuple[Sample, Any]:
    """Runs the solver, and keeps what is wanted of each call."""
    if not all(isinstance(v, jax.Array) for v in jax.tree.leaves((params, x0, args))):
        _check(params, x0, args)  # JAX takes some that it misreads. Its own are traced.
    unroll, vf = derivatives.unrolling_helps(), as_pytree(vf)
    return _compiled(keep, unroll, params, vf, x0, args)


def _check(params: NSParams, x0: Sample, args: tuple[Any, ...]) -> None:
    check_floating("x0", x0)
    check_shapes(params)
    check_arrays(args=args)


@partial(jax.jit, static_argnums=(0, 1))
def _compiled(
    keep: Callable[[Sample, Sample], Any],
    unroll: bool,
    params: NSParams,
    vf: VelocityField,
    x0: Sample,
    args: tuple[Any, ...],
) -> tuple[Sample, Any]:
    """`unroll` says that some fields are differentiated without a loop."""
    _check(params, x0, args)
    params, field, x = _as_arrays(params, vf, x0, args)

    def solve(form: Any, params: NSParams, x: Sample, arrays: list[Any]) -> Any:
        return form(params, field._replace(arrays=arrays), x, keep)

    n = len(params.a)
    steps = n if unroll and field.convolves else 1
    form: Any = partial(derivatives.future_iterates, unroll=steps)
    if unroll and n <= derivatives.MOST_SUMS and (field.convolves or field.is_small):
        form = unrolled
    run = derivatives.differentiate_as(partial(solve, form), partial(solve, iterates))
    return run(params, x, field.arrays)


def _as_arrays(
    params: NSParams, vf: VelocityField, x0: Sample, args: tuple[Any, ...]
) -> tuple[NSParams, TracedField, Sample]:
    """The solver, the field and the noise as arrays; the field is traced here, once."""
    x0 = jax.tree.map(jnp.asarray, x0)
    t_dtype = wider(jnp.float32, *(x.dtype for x in jax.tree.leaves(x0)))
    times, *coefficients = map(jnp.asarray, params)
    times = times.astype(t_dtype)
    # They keep their dtype, unless they are integers.
    a, b = (
        values if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(t_dtype)
        for values in coefficients
    )
    return NSParams(times, a, b), trace(vf, times[0], x0, args), x0
