"""The sampler that runs them all (Algorithm 1)."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bns_jax.checks import check_floating, check_native
from bns_jax.ns import unrolled
from bns_jax.ns.iterates import iterates
from bns_jax.ns.params import NSParams, check_shapes
from bns_jax.ns.traced_field import TracedField, trace
from bns_jax.pytree import as_pytree
from bns_jax.typing import Sample, VelocityField, wider


def sample(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    """Runs a solver: x_n of Algorithm 1.

    The field is traced once, whatever the number of evaluations. Give the weights of
    a network through `jax.tree_util.Partial(apply, weights)`: they are then arguments
    of the compiled program, so that new weights compile nothing. A function that is
    made anew for each call, such as a `lambda` in a loop, compiles anew each time.

    Works under jit, vmap, grad, jvp, `jax.shard_map` and explicit meshes. Reverse mode
    stores three iterates per evaluation and evaluates the field again. On CPU a field
    with convolutions is differentiated without a loop, since XLA is slow with them in
    one: that stores what the field computes on the way too.

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
    """
    check_floating("x0", x0)
    check_shapes(params)
    check_native(args=args)
    return _sample(unrolled.helps(), params, as_pytree(vf), x0, *args)


def sample_path(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    """Like `sample`, but returns every iterate.

    Returns:
      x_1 .. x_n stacked on a new leading axis.
    """
    check_floating("x0", x0)
    check_shapes(params)
    check_native(args=args)
    return _sample_path(unrolled.helps(), params, as_pytree(vf), x0, *args)


def sample_velocities(
    params: NSParams, vf: VelocityField, x0: Sample, *args: Any
) -> tuple[Sample, Sample]:
    """Like `sample`, and returns the velocities it met.

    Returns:
      x_n, and u_0 .. u_{n-1} stacked on a new leading axis.
    """
    check_floating("x0", x0)
    check_shapes(params)
    check_native(args=args)
    return _sample_velocities(unrolled.helps(), params, as_pytree(vf), x0, *args)


@partial(jax.jit, static_argnums=0)
def _sample(
    unroll: bool, params: NSParams, vf: VelocityField, x0: Sample, *args: Any
) -> Sample:
    Y, _ = _solve(unroll, False, params, vf, x0, args)
    return jax.tree.map(lambda x, y: y[-1].astype(x.dtype), x0, Y)


@partial(jax.jit, static_argnums=0)
def _sample_path(
    unroll: bool, params: NSParams, vf: VelocityField, x0: Sample, *args: Any
) -> Sample:
    Y, _ = _solve(unroll, False, params, vf, x0, args)
    return jax.tree.map(lambda x, y: y.astype(x.dtype), x0, Y)


@partial(jax.jit, static_argnums=0)
def _sample_velocities(
    unroll: bool, params: NSParams, vf: VelocityField, x0: Sample, *args: Any
) -> tuple[Sample, Sample]:
    Y, U = _solve(unroll, True, params, vf, x0, args)
    return jax.tree.map(lambda x, y: y[-1].astype(x.dtype), x0, Y), U


def _solve(
    unroll: bool,
    keep_velocities: bool,
    params: NSParams,
    vf: VelocityField,
    x0: Sample,
    args: tuple[Any, ...],
) -> tuple[Sample, Sample | None]:
    """All iterates, and all velocities if they are kept.

    `unroll` says how they are differentiated if the field has convolutions.
    """
    params, field, x0 = _as_arrays(params, vf, x0, args)

    def run(steps: int, params: NSParams, x0: Sample, arrays: list[Any]) -> Any:
        given = field._replace(arrays=arrays)
        return iterates(
            params, given, x0, keep_velocities=keep_velocities, unroll=steps
        )

    if not (unroll and field.convolves):
        return run(1, params, x0, field.arrays)
    solve = unrolled.differentiate_as(partial(run, len(params.a)), partial(run, 1))
    return solve(params, x0, field.arrays)


def _as_arrays(
    params: NSParams, vf: VelocityField, x0: Sample, args: tuple[Any, ...]
) -> tuple[NSParams, TracedField, Sample]:
    """The solver, the field and the noise as arrays; the field is traced here, once."""
    check_shapes(params)
    x0 = jax.tree.map(jnp.asarray, x0)
    t_dtype = wider(jnp.float32, *(x.dtype for x in jax.tree.leaves(x0)))
    times, a, b = map(jnp.asarray, params)
    times = times.astype(t_dtype)

    def coefficients(values: jax.Array) -> jax.Array:
        """They keep their dtype, unless they are integers."""
        floating = jnp.issubdtype(values.dtype, jnp.floating)
        return values if floating else values.astype(t_dtype)

    params = NSParams(times, coefficients(a), coefficients(b))
    return params, trace(vf, times[0], x0, args), x0
