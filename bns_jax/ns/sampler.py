"""The sampler that runs them all (Algorithm 1)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bns_jax.ns.params import NSParams, check_shapes
from bns_jax.pytree import as_pytree
from bns_jax.typing import Array, Sample, VelocityField, wider


def sample(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    """Runs a solver: x_n of Algorithm 1.

    The field is traced once, whatever the number of evaluations. Give the weights of
    a network through `jax.tree_util.Partial(apply, weights)`: they are then arguments
    of the compiled program, so that new weights compile nothing.

    Works under jit, vmap, grad, `jax.shard_map` and explicit meshes. Differentiating
    stores one iterate per evaluation and recomputes the field.

    Args:
      params: the solver; coefficients keep their dtype whatever that of x0.
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
    return _sample(params, as_pytree(vf), x0, *args)


def sample_path(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    """Like `sample`, but returns every iterate.

    Returns:
      x_1 .. x_n stacked on a new leading axis.
    """
    return _sample_path(params, as_pytree(vf), x0, *args)


def sample_velocities(
    params: NSParams, vf: VelocityField, x0: Sample, *args: Any
) -> tuple[Sample, Sample]:
    """Like `sample`, and returns the velocities it met.

    Returns:
      x_n, and u_0 .. u_{n-1} stacked on a new leading axis.
    """
    return _sample_velocities(params, as_pytree(vf), x0, *args)


@jax.jit
def _sample_velocities(
    params: NSParams, vf: VelocityField, x0: Sample, *args: Any
) -> tuple[Sample, Sample]:
    Y, U = _iterates(params, vf, x0, args, keep_velocities=True)
    return jax.tree.map(lambda x, y: y[-1].astype(x.dtype), x0, Y), U


@jax.jit
def _sample(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    Y, _ = _iterates(params, vf, x0, args)
    return jax.tree.map(lambda x, y: y[-1].astype(x.dtype), x0, Y)


@jax.jit
def _sample_path(params: NSParams, vf: VelocityField, x0: Sample, *args: Any) -> Sample:
    Y, _ = _iterates(params, vf, x0, args)
    return jax.tree.map(lambda x, y: y.astype(x.dtype), x0, Y)


def _iterates(
    params: NSParams,
    vf: VelocityField,
    x0: Sample,
    args: tuple[Any, ...],
    keep_velocities: bool = False,
) -> tuple[Sample, Sample | None]:
    """All iterates x_1 .. x_n, accumulated by columns; all velocities if asked for.

    The carry holds the future iterates Y; each call adds its column, Y += b_j (x) u_j,
    and x_{j+1} = Y[j] is complete by then. The other form, which contracts row i of b
    with the stored velocities, would have a backward pass of O(n^2) memory.
    """
    check_shapes(params)
    times, a, b = map(jnp.asarray, params)
    x0 = jax.tree.map(_as_floating, x0)
    t_dtype = wider(jnp.float32, *(x.dtype for x in jax.tree.leaves(x0)))

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def column(vf, args, t, b_j, x):  # type: ignore[no-untyped-def]
        u = vf(t, x, *args)
        check_velocity(u, x, t)
        return jax.tree.map(lambda x, u: _outer(b_j, u, x.dtype), x, u), u

    def step(carry, inputs):  # type: ignore[no-untyped-def]
        Y, x = carry
        j, t_j, b_j = inputs
        added, u = column(vf, args, t_j, b_j, x)
        Y = jax.tree.map(jnp.add, Y, added)
        x = jax.tree.map(
            lambda x, y: lax.dynamic_index_in_dim(y, j, keepdims=False).astype(x.dtype),
            x,
            Y,
        )
        return (Y, x), u if keep_velocities else None

    # Y starts from x0, never from fresh zeros, and so inherits its sharding.
    Y = jax.tree.map(lambda x: _outer(a, x, x.dtype), x0)
    inputs = (jnp.arange(len(a)), times.astype(t_dtype), b.T)
    (Y, _), U = lax.scan(step, (Y, x0), inputs)
    return Y, U


def _outer(coefficients: Array, x: Array, dtype: Any) -> Array:
    """The outer product with x, in the wider of the coefficients' dtype and `dtype`."""
    wide = wider(coefficients.dtype, dtype)
    column = coefficients.astype(wide).reshape((-1,) + (1,) * x.ndim)
    return column * x.astype(wide)[None]


def _as_floating(x: Any) -> Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"every leaf of x0 must be of a floating-point dtype, got {x.dtype}"
        )
    return x


def check_velocity(u: Sample, x: Sample, t: Array) -> None:
    """Checks what a field returned; runs while tracing.

    Raises:
      ValueError: naming the leaf, what was expected of it, and what came.
    """
    trees = jax.tree.structure(u), jax.tree.structure(x)
    if not trees[0] == trees[1]:  # type: ignore[operator]
        raise ValueError(
            f"the velocity field must return the tree of x, {trees[1]}, got {trees[0]}"
        )
    paths = jax.tree_util.tree_leaves_with_path(u)
    for (path, u_leaf), x_leaf in zip(paths, jax.tree.leaves(x), strict=True):
        where = jax.tree_util.keystr(path) or "x"
        if np.shape(u_leaf) != x_leaf.shape:
            raise ValueError(
                f"the velocity field must return the shape of x: at {where} expected "
                f"{x_leaf.shape}, got {np.shape(u_leaf)}"
            )
        dtype = jnp.result_type(u_leaf)
        if dtype not in (x_leaf.dtype, wider(x_leaf.dtype, t.dtype)):
            raise ValueError(
                f"the velocity field must return the dtype of x: at {where} expected "
                f"{x_leaf.dtype}, got {dtype}"
            )
