"""Linear functions whose transposes are written by hand.

`jax.custom_vjp` takes forward mode away, and `jax.custom_derivatives.linear_call`
knows neither vmap nor second derivatives. Hence a primitive of our own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

Function = Callable[..., Any]


def with_transpose(
    function: Function, transpose: Function, residuals: Any, x: Any
) -> Any:
    """Calls a linear function; reverse mode will call the transpose that is given.

    Works under jit, vmap and `jax.shard_map`, and in either mode of differentiation
    any number of times. Only the first derivative is the one written here: what
    depends on the residuals is differentiated by JAX.

    Args:
      function: function(residuals, x) -> y, linear in x, closed over no tracer.
      transpose: transpose(residuals, y) -> x, its transpose, likewise.
      residuals: a pytree.
      x: a pytree of floating-point arrays.

    Returns:
      y = function(residuals, x).
    """
    constants, residual_tree = jax.tree.flatten(residuals)
    leaves, x_tree = jax.tree.flatten(x)
    y_tree = jax.tree.structure(jax.eval_shape(function, residuals, x))
    count = len(constants)

    def flat(function: Function, argument_tree: Any) -> Function:
        def call(*arrays: Any) -> list[Any]:
            head, tail = _split(arrays, count)
            residuals = jax.tree.unflatten(residual_tree, head)
            return jax.tree.leaves(
                function(residuals, jax.tree.unflatten(argument_tree, tail))
            )

        return call

    there, back = flat(function, x_tree), flat(transpose, y_tree)
    return jax.tree.unflatten(y_tree, _bind(there, back, constants, leaves))


def _bind(
    function: Function, transpose: Function, residuals: Sequence, x: Sequence
) -> Any:
    jaxpr = jax.make_jaxpr(function)(*residuals, *x)
    return _linear_p.bind(
        *residuals, *x, jaxpr=jaxpr, transpose=transpose, count=len(residuals)
    )


def _split(values: Sequence, count: int) -> tuple[Sequence, Sequence]:
    return values[:count], values[count:]


def _call(*arrays: Any, jaxpr: ClosedJaxpr, transpose: Function, count: int) -> Any:
    del transpose, count
    return jaxpr_as_fun(jaxpr)(*arrays)


def _type(*_: Any, jaxpr: ClosedJaxpr, transpose: Function, count: int) -> Any:
    del transpose, count
    return jaxpr.out_avals, jaxpr.effects


def _differentiate(
    primals: Sequence,
    tangents: Sequence,
    *,
    jaxpr: ClosedJaxpr,
    transpose: Function,
    count: int,
) -> Any:
    """d(L x) = L dx + dL x, and the second term is left to JAX."""
    function = jaxpr_as_fun(jaxpr)
    (residuals, _), (d_residuals, dx) = _split(primals, count), _split(tangents, count)
    y = _linear_p.bind(*primals, jaxpr=jaxpr, transpose=transpose, count=count)
    terms = []
    if not all(map(_is_zero, dx)):
        dx = [ad.instantiate_zeros(leaf) for leaf in dx]
        terms.append(_bind(function, transpose, residuals, dx))
    moving = [i for i, leaf in enumerate(d_residuals) if not _is_zero(leaf)]
    if moving:

        def at(*moved: Any) -> Any:
            arrays = list(primals)
            for i, leaf in zip(moving, moved, strict=True):
                arrays[i] = leaf
            return function(*arrays)

        point = [primals[i] for i in moving]
        terms.append(jax.jvp(at, point, [d_residuals[i] for i in moving])[1])
    return y, [
        functools.reduce(ad.add_tangents, leaves) for leaves in zip(*terms, strict=True)
    ]


def _transpose(
    y: Sequence, *arrays: Any, jaxpr: ClosedJaxpr, transpose: Function, count: int
) -> Any:
    residuals, x = _split(arrays, count)
    y = [ad.instantiate_zeros(leaf) for leaf in y]
    found = _bind(transpose, jaxpr_as_fun(jaxpr), residuals, y)
    wanted = map(ad.is_undefined_primal, x)
    return [None] * count + [
        leaf if is_wanted else None
        for leaf, is_wanted in zip(found, wanted, strict=True)
    ]


def _batch(
    axis: Any,
    arrays: Sequence,
    dims: Sequence,
    *,
    jaxpr: ClosedJaxpr,
    transpose: Function,
    count: int,
) -> Any:
    """All of y is batched if anything is; the transpose sums where x was not.

    It sums the cotangents of all members of the batch. Where these are larger than the
    residuals, as for the weights of a network, JAX transposes the function instead: it
    sums as it goes.
    """
    if all(dim is None for dim in dims):
        y = _linear_p.bind(*arrays, jaxpr=jaxpr, transpose=transpose, count=count)
        return y, [None] * len(y)
    vmap = functools.partial(
        jax.vmap,
        axis_name=axis.name,
        axis_size=axis.size,
        spmd_axis_name=axis.spmd_name or axis.explicit_mesh_axis,
    )
    (residuals, x), (residual_dims, x_dims) = _split(arrays, count), _split(dims, count)
    there = vmap(jaxpr_as_fun(jaxpr), in_axes=tuple(dims))
    types = [jax.typeof(leaf) for leaf in x]

    def back(*arrays: Any) -> list[Any]:
        residuals, y = _split(arrays, count)
        found = vmap(transpose, in_axes=(*residual_dims, *[0] * len(y)))(*residuals, *y)
        return [
            leaf.sum(axis=0) if dim is None else jnp.moveaxis(leaf, 0, dim)
            for leaf, dim in zip(found, x_dims, strict=True)
        ]

    def back_by_jax(*arrays: Any) -> Sequence:
        residuals, y = _split(arrays, count)
        zeros = map(ad.zeros_like_aval, types)
        return jax.vjp(functools.partial(there, *residuals), *zeros)[1](list(y))

    def size(arrays: Sequence, dims: Sequence, batched: bool) -> int:
        pairs = zip(arrays, dims, strict=True)
        return sum(leaf.size for leaf, dim in pairs if (dim is not None) == batched)

    summed = axis.size * size(x, x_dims, batched=False)
    few = summed <= size(residuals, residual_dims, batched=True)
    y = _bind(there, back if few else back_by_jax, residuals, x)
    return y, [0] * len(y)


def _is_zero(tangent: Any) -> bool:
    return type(tangent) is ad.Zero


_linear_p = Primitive("linear_with_transpose")
_linear_p.multiple_results = True
_linear_p.def_impl(_call)
_linear_p.def_effectful_abstract_eval(_type)
mlir.register_lowering(_linear_p, mlir.lower_fun(_call, multiple_results=True))
ad.primitive_jvps[_linear_p] = _differentiate
ad.primitive_transposes[_linear_p] = _transpose
batching.fancy_primitive_batchers[_linear_p] = _batch
