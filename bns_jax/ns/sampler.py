"""The sampler that runs them all (Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bns_jax.checks import check_floating, check_velocity
from bns_jax.ns import adjoint
from bns_jax.ns.params import NSParams, check_shapes
from bns_jax.pytree import as_pytree
from bns_jax.typing import Array, Sample, VelocityField, wider


def sample(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    """Runs a solver: x_n of Algorithm 1.

    The field is traced once, whatever the number of evaluations. Give the weights of
    a network through `jax.tree_util.Partial(apply, weights)`: they are then arguments
    of the compiled program, so that new weights compile nothing. A function that is
    made anew for each call, such as a `lambda` in a loop, compiles anew each time.

    Works under jit, vmap, grad, jvp, `jax.shard_map` and explicit meshes. Reverse mode
    stores one iterate per evaluation and recomputes the field.

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
    return _sample(params, as_pytree(vf), x0, *args)


def sample_path(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    """Like `sample`, but returns every iterate.

    Returns:
      x_1 .. x_n stacked on a new leading axis.
    """
    check_floating("x0", x0)
    return _sample_path(params, as_pytree(vf), x0, *args)


def sample_velocities(
    params: NSParams, vf: VelocityField, x0: Sample, *args: Any
) -> tuple[Sample, Sample]:
    """Like `sample`, and returns the velocities it met.

    Returns:
      x_n, and u_0 .. u_{n-1} stacked on a new leading axis.
    """
    check_floating("x0", x0)
    return _sample_velocities(params, as_pytree(vf), x0, *args)


def sample_pullback(
    params: NSParams, vf: VelocityField, x0: Sample, *args: Any
) -> tuple[Sample, Callable[[Sample], NSParams]]:
    """Like `sample`, and returns what takes cotangents of x_n back to the solver.

    For several of them it is cheaper than reverse mode, which evaluates the field
    again for each: here once serves them all, at the price of storing a lambda_j per
    cotangent and evaluation. To be called where it will be compiled.

    Returns:
      x_n, and a function of cotangents of it, with a leading axis (S,), to those of
      the three arrays, of their dtypes and with that axis too.
    """
    check_floating("x0", x0)
    solver = _as_arrays(params, as_pytree(vf), x0, args)
    Y, _ = adjoint.iterates(*solver)
    x_n = jax.tree.map(lambda x, y: y[-1].astype(x.dtype), x0, Y)

    def pull(lam: Sample) -> NSParams:
        arrays = adjoint.pull_all(*solver, Y, lam)
        return jax.tree.map(lambda ct, of: ct.astype(of.dtype), arrays, params)

    return x_n, pull


@jax.jit
def _sample(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    return adjoint.end(*_as_arrays(params, vf, x0, args))


@jax.jit
def _sample_path(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    velocity, params, x0, given = _as_arrays(params, vf, x0, args)
    Y, _ = adjoint.iterates(velocity, params, x0, given)
    return jax.tree.map(lambda x, y: y.astype(x.dtype), x0, Y)


@jax.jit
def _sample_velocities(
    params: NSParams, vf: VelocityField, x0: Sample, *args: Any
) -> tuple[Sample, Sample]:
    velocity, params, x0, given = _as_arrays(params, vf, x0, args)
    Y, U = adjoint.iterates(velocity, params, x0, given, keep_velocities=True)
    return jax.tree.map(lambda x, y: y[-1].astype(x.dtype), x0, Y), U


def _as_arrays(
    params: NSParams, vf: VelocityField, x0: Sample, args: tuple[Any, ...]
) -> tuple[adjoint.Velocity, NSParams, Sample, list[Any]]:
    """A field as a function of all arrays that it reads, and these arrays.

    The field is traced here, once. What it closes over from outer traces comes out
    among the arrays, and so has its derivatives too.
    """
    check_shapes(params)
    x0 = jax.tree.map(jnp.asarray, x0)
    t_dtype = wider(jnp.float32, *(x.dtype for x in jax.tree.leaves(x0)))
    times, a, b = map(jnp.asarray, params)
    times = times.astype(t_dtype)
    leaves, tree = jax.tree.flatten((vf, args))

    def call(leaves: list[Any], t: Array, x: Sample) -> Sample:
        vf, args = jax.tree.unflatten(tree, leaves)
        u = vf(t, x, *args)
        check_velocity(u, x, t)
        return u

    traced = jax.make_jaxpr(call)(leaves, times[0], x0)
    closed_over = len(traced.consts)

    def velocity(given: list[Any], t: Array, x: Sample) -> Sample:
        x_leaves, x_tree = jax.tree.flatten(x)
        consts, leaves = given[:closed_over], given[closed_over:]
        u = jax.core.eval_jaxpr(traced.jaxpr, consts, *leaves, t, *x_leaves)
        return jax.tree.unflatten(x_tree, u)

    params = NSParams(times, _coefficients(a, t_dtype), _coefficients(b, t_dtype))
    return velocity, params, x0, [*traced.consts, *leaves]


def _coefficients(values: Array, dtype: Any) -> Array:
    """Coefficients keep their dtype, unless they are integers."""
    return (
        values if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(dtype)
    )
