"""What the library costs beside what it calls: ratios measured side by side.

python -m experiments.tools.benchmarks
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import bns_jax
from bns_jax import solvers
from bns_jax.derivatives import inside_a_loop
from experiments.run import cli
from experiments.run.config import Config
from experiments.run.progress import quiet

_RUNS = 15
_SHAPE = (4, 32, 32, 3)
_LAYERS = 4
_FEATURES = 96


def main(config: Config) -> None:
    """Prints the overhead of `sample`, its import and gradients, and their memory."""
    del config
    quiet()
    device = jax.devices()[0]
    print(f"jax {jax.__version__} on {device.device_kind}, {len(jax.devices())} device")
    _sampling_overhead()
    _import_overhead()
    _backward_memory()
    _unrolled_gradients()


def _sampling_overhead() -> None:
    """`sample` against n bare calls of the same jitted field."""
    print(f"\nsample / n bare calls of its field, x {_SHAPE}, median of {_RUNS} runs")
    weights, x0 = _weights(), jnp.ones(_SHAPE)
    field, bare = jax.tree_util.Partial(_network, weights), jax.jit(_network)
    for nfe in (4, 8, 16):
        params = solvers.midpoint(nfe)
        times = [jnp.asarray(t, jnp.float32) for t in params.times]

        def calls(times: list[jax.Array] = times) -> list[jax.Array]:
            return [bare(weights, t, x0) for t in times]

        def sampled(params: bns_jax.NSParams = params) -> jax.Array:
            return bns_jax.sample(params, field, x0)

        whole, parts = _interleaved(sampled, calls)
        ratio = np.median(whole) / np.median(parts)
        each = 1e3 * np.median(parts) / nfe
        print(f"  n = {nfe:2d}  {each:5.1f} ms per call  ratio {ratio:.3f}")


def _import_overhead() -> None:
    """`import bns_jax` after `import jax`, in fresh processes."""
    print(f"\nimport bns_jax where jax is imported, median of {_RUNS} runs")
    clock = "s = time.perf_counter(); import {}; print(time.perf_counter() - s)"
    script = "\n".join(["import time", clock.format("jax"), clock.format("bns_jax")])

    def seconds() -> list[float]:
        printed = subprocess.check_output([sys.executable, "-c", script])
        return [float(line) for line in printed.split()]

    theirs, ours = np.median([seconds() for _ in range(_RUNS)], axis=0)
    print(f"  {1e3 * ours:.0f} ms more than the {1e3 * theirs:.0f} ms of jax")


def _backward_memory() -> None:
    """Temporary memory of the gradient, as the compiler counts it."""
    print("\nbackward memory over that of n = 4, in iterates of the size of x")
    weights, x0 = _weights(), jnp.ones(_SHAPE)
    field = jax.tree_util.Partial(_network, weights)

    def loss(params: bns_jax.NSParams) -> jax.Array:
        return jnp.sum(jnp.square(bns_jax.sample(params, field, x0)))

    def bytes_needed(nfe: int) -> int:
        params = jax.tree.map(jnp.asarray, solvers.midpoint(nfe))
        compiled = jax.jit(jax.grad(loss)).lower(params).compile()
        return int(compiled.memory_analysis().temp_size_in_bytes)  # type: ignore[union-attr]

    base = bytes_needed(4)
    for nfe in (8, 16, 32):
        more = (bytes_needed(nfe) - base) / x0.nbytes
        print(f"  n = {nfe:2d}  {more:6.1f}, {more / (nfe - 4):.2f} per evaluation")


def _unrolled_gradients() -> None:
    """On CPU: gradients of convolutions without a loop, against those in one."""
    print("\ngradients without a loop against those in one, and when that pays")
    field, x0 = jax.tree_util.Partial(_network, _weights()), jnp.ones(_SHAPE)

    def loss(params: bns_jax.NSParams) -> jax.Array:
        return jnp.sum(jnp.square(bns_jax.sample(params, field, x0)))

    def compiled(
        params: bns_jax.NSParams, around: contextlib.AbstractContextManager
    ) -> tuple[float, Callable[[], object]]:
        start = time.perf_counter()
        with around:
            program = jax.jit(jax.grad(loss)).lower(params).compile()
        return time.perf_counter() - start, lambda: program(params)

    for nfe in (4, 8, 16):
        params = jax.tree.map(jnp.asarray, solvers.midpoint(nfe))
        jax.clear_caches()
        without, unrolled = compiled(params, contextlib.nullcontext())
        jax.clear_caches()
        within, scanned = compiled(params, inside_a_loop())
        fast, slow = map(np.median, _interleaved(unrolled, scanned))
        print(
            f"  n = {nfe:2d}  compiles in {without / within:.1f} times the time, runs "
            f"{slow / fast:.1f} times as fast: pays after "
            f"{max(0.0, (without - within) / (slow - fast)):.0f} gradients"
        )


def _interleaved(
    first: Callable[[], object], second: Callable[[], object]
) -> tuple[list[float], list[float]]:
    """Seconds of both, in turn, after one call of each to compile."""

    def seconds(function: Callable[[], object]) -> float:
        start = time.perf_counter()
        jax.block_until_ready(function())
        return time.perf_counter() - start

    seconds(first), seconds(second)
    both = [(seconds(first), seconds(second)) for _ in range(_RUNS)]
    return [pair[0] for pair in both], [pair[1] for pair in both]


def _weights() -> list[jax.Array]:
    widths = [_SHAPE[-1], *[_FEATURES] * _LAYERS, _SHAPE[-1]]
    keys = jax.random.split(jax.random.key(0), len(widths) - 1)
    return [
        jax.random.normal(key, (3, 3, fan_in, fan_out)) / (3 * fan_in**0.5)
        for key, fan_in, fan_out in zip(keys, widths[:-1], widths[1:], strict=True)
    ]


def _network(weights: list[jax.Array], t: jax.Array, x: jax.Array) -> jax.Array:
    """A stack of convolutions, of a few milliseconds a call on two cores."""
    h = x * (1 + t)
    for kernel in weights:
        h = jax.lax.conv_general_dilated(
            jnp.tanh(h),
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    return h


if __name__ == "__main__":
    cli.launch(main, Config)
