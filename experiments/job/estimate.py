"""What a main job will take, measured and counted before it starts."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax import parallel, solvers, tables
from bns_jax.typing import Sample, VelocityField
from experiments.job import optimizer as optimizers
from experiments.job import starts
from experiments.job.config import JobConfig
from experiments.models.catalogue import Model

_TRUTH_CALLS = 130
"""Field calls of a reference solve at the usual tolerance; models differ twofold."""

_MEASURED_BATCH = 64
_REPEATS = 3
_STEPS_OF_DOPRI = 7
_KEPT_TIMES = 21


class Estimate(NamedTuple):
    """What a main job will take.

    Attributes:
      seconds_per_call: of the guided field, per sample of a batch.
      calls: stage -> field calls on single samples, at most; a backward one counts 2.
      weights_bytes: of the network; bytes are those of each device.
      forward_bytes: of one call of the field on a chunk of pairs.
      backward_bytes: of its derivative on a (micro)batch of distillation.
    """

    seconds_per_call: float
    calls: dict[str, int]
    weights_bytes: int
    forward_bytes: int
    backward_bytes: int

    def __str__(self) -> str:
        """As a table, with the peak of memory below."""
        lines = [["stage", "field calls", "time at most"], []]
        for stage, calls in self.calls.items():
            lines.append(
                [stage, f"{calls:,}", _duration(calls * self.seconds_per_call)]
            )
        total = sum(self.calls.values())
        lines += [[], ["all", f"{total:,}", _duration(total * self.seconds_per_call)]]
        peak = self.weights_bytes + max(self.forward_bytes, self.backward_bytes)
        return (
            f"estimate, at {1e3 * self.seconds_per_call:.3g} ms per field call and "
            f"sample, compilation left out:\n\n{tables.aligned(lines)}\n\n"
            f"memory: {_size(self.weights_bytes)} of weights; a field call on a chunk "
            f"of pairs {_size(self.forward_bytes)}, its derivative on a batch "
            f"{_size(self.backward_bytes)}; peak about {_size(peak)}\n"
        )


def estimate(model: Model, config: JobConfig) -> Estimate:
    """Measures one call of the field, and counts the calls to come."""
    devices = parallel.batch_devices(model.mesh)
    chunk = min(config.chunk or _MEASURED_BATCH, max(config.counts.values()))
    optimizer = model.cached(optimizers.of(config), config.train_pairs)
    batch = optimizer.microbatch or optimizer.batch_of(config.train_pairs)
    chunk, batch = (-(-count // devices) * devices for count in (chunk, batch))
    drawn = _drawn(model, chunk)
    forward = jax.jit(_call).lower(model.field, *drawn).compile()
    batch_drawn = _drawn(model, batch)
    backward = jax.jit(_derivative).lower(model.field, *batch_drawn).compile()
    x_bytes = drawn[1].nbytes // devices
    return Estimate(
        _seconds(forward, model.field, drawn) / chunk,
        count_calls(model, config),
        _bytes_per_device(model.field),
        _temporary(forward) + (_STEPS_OF_DOPRI + _KEPT_TIMES) * x_bytes,
        _temporary(backward),
    )


def count_calls(model: Model, config: JobConfig) -> dict[str, int]:
    """Field calls on single samples, stage by stage, if no search ends early."""
    counts, optimizer = config.counts, optimizers.of(config)
    batch, names = optimizer.batch_of(counts["train"]), solvers.expand(config.solvers)
    iterations, every = optimizer.iterations, optimizer.evaluate_every
    cost = optimizer.trainer(iterations).cost * batch * iterations
    cost += (iterations // every + 1) * counts["validation"]
    calls = {"pairs": _TRUTH_CALLS * sum(counts.values())}
    for nfe in config.nfe:
        grids = 0
        if config.init in (starts.GREEDY, starts.PREVIOUS):
            grids = starts.greedy_grids(after_another=nfe > min(config.nfe))
        calls[f"distill {nfe}"] = (cost + grids * counts["train"]) * nfe
    compared = [
        nfe * (1 + len(solvers.build_all(names, nfe, model.scheduler)))
        for nfe in config.nfe
    ]
    calls["evaluate"] = sum(compared) * counts["test"]
    return calls


def _drawn(model: Model, count: int) -> Any:
    """(t, x, *args) of a call of the field, laid over the devices."""
    x, args = model.draw(count, np.random.default_rng(0))
    laid = parallel.shard(jax.tree.map(jnp.asarray, (x, *args)), model.mesh)
    return (jnp.float32(0.5), *laid)


def _bytes_per_device(tree: Any) -> int:
    """Of the arrays of a tree, each counted once."""
    leaves = {id(leaf): leaf for leaf in jax.tree.leaves(tree)}.values()
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    return sum(
        math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
        for array in arrays
    )


def _call(field: VelocityField, t: jax.Array, x: Sample, *args: Any) -> Sample:
    return field(t, x, *args)


def _derivative(field: VelocityField, t: jax.Array, x: Sample, *args: Any) -> Sample:
    """A vector-Jacobian product, as distillation takes one at each evaluation."""
    out, pull = jax.vjp(lambda x: field(t, x, *args), x)
    return pull(out)


def _seconds(compiled: Any, field: VelocityField, args: Any) -> float:
    """The shortest of a few calls, after one that warms up."""
    spent = []
    for _ in range(_REPEATS + 1):
        start = time.monotonic()
        jax.block_until_ready(compiled(field, *args))
        spent.append(time.monotonic() - start)
    return min(spent[1:])


def _temporary(compiled: Any) -> int:
    """Bytes that a program needs besides its arguments."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    return int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes)


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
