"""Time and memory of `sample` and its gradients, beside the same written by hand."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bns_jax
from bns_jax import ns, solvers
from bns_jax.derivatives import inside_a_loop

_RUNS = 20
_NFE = 8
_SHAPE = (4, 32, 32, 3)
_LAYERS = 4
_FEATURES = 96


def sampling_overhead() -> None:
    """Prints `sample` against n bare calls of the same jitted field."""
    print(f"\nsample / n bare calls of its field, median of {_RUNS} pairs")
    fields: dict[str, tuple[Any, Any, jax.Array, tuple[int, ...]]] = {
        "convolutions": (_network, _weights(), jnp.ones(_SHAPE), (4, 8, 16)),
        "matrix product": (_product, _normal(1024, 1024), _normal(128, 1024), (_NFE,)),
        "small operations": (_operations, _normal(64), _normal(256, 64), (_NFE,)),
    }
    for name, (apply, weights, x0, counts) in fields.items():
        field, bare = jax.tree_util.Partial(apply, weights), jax.jit(apply)
        for nfe in counts:
            params = _solver(nfe)
            times = list(params.times)
            calls = functools.partial(_bare_calls, bare, weights, times, x0)
            sampled = functools.partial(bns_jax.sample, params, field, x0)
            whole, parts = interleaved(sampled, calls)
            each = 1e3 * np.median(parts) / nfe
            print(
                f"  {name:16s} n = {nfe:2d}  {each:5.1f} ms per call  "
                f"ratio {np.median(np.divide(whole, parts)):.3f}"
            )


def dispatch_overhead() -> None:
    """Prints what a call costs whose field has many small weights."""
    print("\nsample / a jitted scan by hand, 500 weights, median of 200 pairs")
    weights = [_normal(4, seed=seed) for seed in range(500)]
    field, params = jax.tree_util.Partial(_many, weights), _solver(_NFE)
    inputs = params, field, jnp.ones((8, 4))
    by_hand = jax.jit(_scan)
    for name, run in (("eager", bns_jax.sample), ("jitted", jax.jit(_sample))):
        ours, theirs = interleaved(
            functools.partial(run, *inputs), functools.partial(by_hand, *inputs), 200
        )
        each = 1e3 * np.median(theirs)
        print(f"  {name:6s} {each:5.2f} ms by hand  ratio {_ratio(ours, theirs):.3f}")


def gradient_overhead() -> None:
    """Prints gradients of `sample` against those of a loop in Python."""
    print(f"\ngradient / that of a Python loop, n = {_NFE}, median of {_RUNS} pairs")
    fields: dict[str, tuple[Any, jax.Array, jax.Array]] = {
        "tanh(x @ W), d = 64": (_tanh, _normal(64, 64), _normal(256, 64)),
        "tanh(x @ W), d = 256": (_tanh, _normal(256, 256), _normal(256, 256)),
        "3x3 convolution": (_convolve, _normal(3, 3, 32, 32), _normal(4, 16, 16, 32)),
    }
    asked = {"solver": (0,), "solver, x0": (0, 1), "solver, x0, weights": (0, 1, 2)}
    for name, (apply, weights, x0) in fields.items():
        for of, argnums in asked.items():
            ours, theirs = (
                functools.partial(
                    jax.jit(jax.grad(functools.partial(_loss, run, apply), argnums)),
                    *(_solver(_NFE), x0, weights),
                )
                for run in (bns_jax.sample, _loop)
            )
            ratio = _ratio(*interleaved(ours, theirs))
            print(f"  {name:20s} of {of:19s} ratio {ratio:.2f}")


def backward_memory() -> None:
    """Prints temporary memory of the gradient, as the compiler counts it."""
    print("\nbackward memory over that of n = 4, in iterates of the size of x")
    weights, x0 = _weights(), jnp.ones(_SHAPE)

    def bytes_needed(nfe: int) -> int:
        gradient = jax.jit(jax.grad(functools.partial(_loss, _sample, _network)))
        compiled = gradient.lower(_solver(nfe), x0, weights).compile()
        return int(compiled.memory_analysis().temp_size_in_bytes)  # type: ignore[union-attr]

    base = bytes_needed(4)
    for nfe in (8, 16, 32):
        more = (bytes_needed(nfe) - base) / x0.nbytes
        print(f"  n = {nfe:2d}  {more:6.1f}, {more / (nfe - 4):.2f} per evaluation")


def unrolled_gradients() -> None:
    """Prints on CPU: gradients of convolutions without a loop over those in one."""
    print("\ngradients without a loop against those in one, and when that pays")
    x0, weights = jnp.ones(_SHAPE), _weights()

    def compiled(
        params: bns_jax.NSParams, around: contextlib.AbstractContextManager
    ) -> tuple[float, Callable[[], object]]:
        jax.clear_caches()
        start = time.perf_counter()
        with around:
            gradient = jax.jit(jax.grad(functools.partial(_loss, _sample, _network)))
            program = gradient.lower(params, x0, weights).compile()
        return time.perf_counter() - start, lambda: program(params, x0, weights)

    for nfe in (4, 8, 16):
        without, unrolled = compiled(_solver(nfe), contextlib.nullcontext())
        within, scanned = compiled(_solver(nfe), inside_a_loop())
        fast, slow = map(np.median, interleaved(unrolled, scanned))
        print(
            f"  n = {nfe:2d}  compiles in {without / within:.1f} times the time, runs "
            f"{slow / fast:.1f} times as fast: pays after "
            f"{max(0.0, (without - within) / (slow - fast)):.0f} gradients"
        )


def interleaved(
    first: Callable[[], object], second: Callable[[], object], runs: int = _RUNS
) -> tuple[list[float], list[float]]:
    """Runs both in turn, after one call of each to compile.

    Args:
      first: what is timed.
      second: what it is compared to.
      runs: of each.

    Returns:
      Seconds of each run.
    """

    def seconds(function: Callable[[], object]) -> float:
        start = time.perf_counter()
        jax.block_until_ready(function())
        return time.perf_counter() - start

    seconds(first), seconds(second)
    both = [(seconds(first), seconds(second)) for _ in range(runs)]
    return [pair[0] for pair in both], [pair[1] for pair in both]


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """Of the medians."""
    return float(np.median(ours) / np.median(theirs))


def _solver(nfe: int) -> bns_jax.NSParams:
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32), solvers.midpoint(nfe)
    )


def _sample(params: bns_jax.NSParams, vf: Any, x0: jax.Array) -> jax.Array:
    """Another function than the library's, as jit keeps programs by function."""
    return bns_jax.sample(params, vf, x0)


def _loop(params: bns_jax.NSParams, vf: Any, x0: jax.Array) -> jax.Array:
    return ns.as_solver(params)(vf, x0)


def _scan(params: bns_jax.NSParams, vf: Any, x0: jax.Array) -> jax.Array:
    def step(carry: Any, inputs: Any) -> Any:
        (Y, x), (j, t, b) = carry, inputs
        Y = Y + b[:, None, None] * vf(t, x)
        return (Y, Y[j]), None

    start = params.a[:, None, None] * x0, x0
    calls = jnp.arange(len(params.a)), params.times, params.b.T
    return jax.lax.scan(step, start, calls)[0][1]


def _loss(
    run: Any, apply: Any, params: bns_jax.NSParams, x0: jax.Array, weights: Any
) -> jax.Array:
    return jnp.sum(jnp.square(run(params, jax.tree_util.Partial(apply, weights), x0)))


def _bare_calls(
    field: Any, weights: Any, times: list[jax.Array], x: jax.Array
) -> list[jax.Array]:
    return [field(weights, t, x) for t in times]


def _normal(*shape: int, seed: int = 0) -> jax.Array:
    fan_in = np.prod(shape[:-1])
    return jax.random.normal(jax.random.key(seed), shape) / np.float32(fan_in) ** 0.5


def _weights() -> list[jax.Array]:
    widths = [_SHAPE[-1], *[_FEATURES] * _LAYERS, _SHAPE[-1]]
    pairs = itertools.pairwise(widths)
    return [_normal(3, 3, *pair, seed=seed) for seed, pair in enumerate(pairs)]


def _network(weights: list[jax.Array], t: jax.Array, x: jax.Array) -> jax.Array:
    """A stack of convolutions, of a few milliseconds a call on two cores."""
    h = x * (1 + t)
    for kernel in weights:
        h = _convolve(kernel, t, jnp.tanh(h))
    return h


def _convolve(kernel: jax.Array, t: jax.Array, x: jax.Array) -> jax.Array:
    del t
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=layout
    )


def _tanh(weights: jax.Array, t: jax.Array, x: jax.Array) -> jax.Array:
    del t
    return jnp.tanh(x @ weights)


def _product(weights: jax.Array, t: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ weights) * (1 + t)


def _operations(weights: jax.Array, t: jax.Array, x: jax.Array) -> jax.Array:
    for _ in range(20):
        x = jnp.sin(jnp.cumsum(x, axis=1) * (1 + t) + weights)
    return x


def _many(weights: list[jax.Array], t: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tanh(x * t + functools.reduce(jnp.add, weights))
