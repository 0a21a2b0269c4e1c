"""Derivatives without a loop, for a compiler that runs some convolutions slowly in one.

XLA's CPU backend brings convolutions into the form of its fast kernels outside loops
only. That of a gradient has a reversed kernel with its channels swapped, and takes up
to a hundred times as long inside a loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero

_in_a_loop = ContextVar("_in_a_loop", default=False)


@contextlib.contextmanager
def inside_a_loop() -> Iterator[None]:
    """While a loop around the sampler is traced, in which unrolling gains nothing.

    Yields:
      Nothing.
    """
    token = _in_a_loop.set(True)
    try:
        yield
    finally:
        _in_a_loop.reset(token)


def unrolling_helps() -> bool:
    """Whether a field with convolutions is better differentiated without a loop.

    On two cores, for convolutions of 96 features, it compiles in 1.4, 1.9 and 4.1 times
    the time at n = 4, 8 and 16, and runs 2.4 to 2.6 times as fast, as printed by
    `python -m experiments.tools.benchmarks`: the first gradient earns it back, so it is
    always taken. It stores what the field computes on the way, whatever
    `jax.checkpoint` asks for: the compiler finds it again in the forward pass.

    Returns:
      True on CPU, unless a loop around the sampler is traced.
    """
    return jax.default_backend() == "cpu" and not _in_a_loop.get()


def differentiate_as(
    other: Callable[..., Any], function: Callable[..., Any]
) -> Callable[..., Any]:
    """`function`, whose derivatives are taken through `other`, which computes the same.

    Args:
      other: closes over no tracer.
      function: likewise, of the same pytrees of arrays.

    Returns:
      A function of the same arguments.
    """
    call = jax.custom_jvp(function)

    def differentiate(primals: Any, tangents: Any) -> tuple[Any, Any]:
        leaves, tree = jax.tree.flatten(primals)
        moves = {
            i: dx
            for i, dx in enumerate(jax.tree.leaves(tangents))
            if not isinstance(dx, SymbolicZero)
        }

        def at(moved: dict[int, Any]) -> Any:
            all_leaves = [moved.get(i, leaf) for i, leaf in enumerate(leaves)]
            return other(*jax.tree.unflatten(tree, all_leaves))

        return jax.jvp(at, ({i: leaves[i] for i in moves},), (moves,))

    call.defjvp(differentiate, symbolic_zeros=True)
    return call
