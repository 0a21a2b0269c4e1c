"""Eq. 11: each iterate is summed when it is due, in a loop or without one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bns_jax.ns.params import NSParams
from bns_jax.traced_field import TracedField
from bns_jax.typing import Array, Sample, wider


def iterates(
    params: NSParams, field: TracedField, x0: Sample, keep: Callable[..., Any]
) -> tuple[Sample, Any]:
    """x_n, and what `keep` returns of x_{j+1} and u_j, stacked.

    To be run, not differentiated: that would store all velocities at each call.
    """
    rows = _rows(params)

    def step(carry: Any, inputs: Any) -> Any:
        terms, x = carry
        j, t_j, row = inputs
        u = field.evaluate(field.arrays, t_j, x)
        put = functools.partial(lax.dynamic_update_index_in_dim, index=j + 1, axis=0)
        terms = jax.tree.map(put, terms, _widened(rows, u, x))
        x = jax.tree.map(lambda x, terms: _sum(row, x, *terms), x, terms)
        return (terms, x), keep(x, u)

    # Those not met yet weigh nothing; no fresh zeros, which have no sharding.
    first, count = _widened(rows, x0, x0), rows.shape[1]
    terms = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), first)
    calls = jnp.arange(count - 1), params.times, rows
    (_, x), kept = lax.scan(step, (terms, x0), calls)
    return x, kept


def unrolled(
    params: NSParams, field: TracedField, x0: Sample, keep: Callable[..., Any]
) -> tuple[Sample, Any]:
    """The same without a loop, to be differentiated: all on the way is stored."""
    rows = _rows(params)
    x, terms, kept = x0, [_widened(rows, x0, x0)], []
    for t_j, row in zip(params.times, rows, strict=True):
        u = field.evaluate(field.arrays, t_j, x)
        terms.append(_widened(rows, u, x))
        x = jax.tree.map(functools.partial(_sum, row), x, *terms)
        kept.append(keep(x, u))
    return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *kept)


def _rows(params: NSParams) -> Array:
    """(n, n + 1): what x_0 and u_0 .. u_{n-1} weigh in each iterate."""
    dtype = wider(params.a.dtype, params.b.dtype)
    return jnp.column_stack([v.astype(dtype) for v in (params.a, jnp.tril(params.b))])


def _widened(rows: Array, u: Sample, x: Sample) -> Sample:
    """A tree in the wider of the coefficients' dtype and x's, for its sums."""
    return jax.tree.map(lambda u, x: u.astype(wider(rows.dtype, x.dtype)), u, x)


def _sum(row: Array, x: Array, *terms: Array) -> Array:
    """The terms that there are by their weights, in the dtype of x."""
    row = row.astype(terms[0].dtype)
    return functools.reduce(jnp.add, map(jnp.multiply, row, terms)).astype(x.dtype)
