"""The programs that run on a pod, made from shapes alone."""

from __future__ import annotations

import collections
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bns_jax import distill, families, lanes, ns, parallel, solvers
from bns_jax.distill import Batch, Objective, Optimizer
from bns_jax.distill.state import initial_state
from bns_jax.distill.step import Task, make_step
from bns_jax.families import Family
from bns_jax.typing import VelocityField
from experiments.tools.collectives import bytes_per_call, collectives, has_float64

_POINTS = 21


def lowered(
    vf: VelocityField,
    x0: Any,
    args: tuple[Any, ...],
    mesh: Mesh,
    nfe: int,
    double: bool,
) -> dict[str, jax.stages.Lowered]:
    """Pairs, sampling and both training steps, for the devices of a mesh.

    Args:
      vf: the field; its weights are replicated.
      x0: a batch of noise, arrays or their shapes.
      args: its conditioning, likewise.
      mesh: the devices; they need not be there.
      nfe: evaluations of the solver.
      double: whether Gauss-Newton's algebra runs in float64.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    vf = _shapes(vf, whole)
    x0, args = _shapes((x0, args), rows)
    family = families.bns(solvers.euler(nfe))
    times = np.linspace(0.0, 1.0, _POINTS)
    step = partial(_step, family, vf, x0, args, mesh)
    return {
        "pairs": lanes.advance.lower(
            vf, _lanes(vf, x0, args, times, mesh), times, 1e-5, 1e-5, mesh=mesh
        ),
        "sample": jax.jit(ns.sample).lower(
            family.to_params(family.theta), vf, x0, *args
        ),
        "Gauss-Newton step": step(distill.gauss_newton(double=double)),
        "Adam step": step(distill.adam()),
    }


def _lanes(
    vf: VelocityField, x0: Any, args: tuple[Any, ...], times: np.ndarray, mesh: Mesh
) -> Any:
    """The shapes of a lane for each sample."""
    waiting = jax.eval_shape(partial(lanes.begin, mesh=mesh), vf, x0, args)
    entered = partial(lanes.enter, save_at=times, mesh=mesh)
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    return _shapes(jax.eval_shape(entered, vf, waiting), rows)


def _step(
    family: Family,
    vf: VelocityField,
    x0: Any,
    args: tuple[Any, ...],
    mesh: Mesh,
    optimizer: Optimizer,
) -> jax.stages.Lowered:
    """One training step, as `distill.fit` runs it."""
    trainer = optimizer.trainer(optimizer.iterations)
    objective = Objective(distill.pairwise(distill.psnr_loss))
    (batch,) = {leaf.shape[0] for leaf in jax.tree.leaves(x0)}
    step: Callable[..., Any] = make_step(
        trainer, Task(family.to_params, objective), mesh
    )
    start = jax.eval_shape(lambda: initial_state(family, trainer, 0))
    weights: Any = jax.ShapeDtypeStruct((batch,), jnp.float32)
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    return step.lower(  # type: ignore[attr-defined]
        vf,
        _shapes(start, parallel.replicated(mesh)),
        _shapes(Batch(x0, x0, args, weights), rows),
    )


def _shapes(tree: Any, sharding: Any) -> Any:
    def shape(leaf: Any) -> Any:
        if isinstance(leaf, bool | int | float):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(shape, tree)


class Figures(NamedTuple):
    """What a program takes.

    Attributes:
      name: of the program.
      code: bytes per device, and so for the next two.
      arguments: likewise.
      temporaries: likewise.
      collectives: what the devices send each other, by kind.
      bytes_sent: what a device contributes to them in one call.
      limit: of bytes_sent; None where there is none.
      float64: whether there is any.
    """

    name: str
    code: int
    arguments: int
    temporaries: int
    collectives: str
    bytes_sent: float
    limit: int | None
    float64: bool

    @property
    def is_sound(self) -> bool:
        """Whether a TPU runs it, and it sends no more than it may."""
        within = self.limit is None or self.bytes_sent <= self.limit
        return within and not self.float64

    def cells(self) -> list[str]:
        """As text."""
        sizes = [f"{size / 2**20:.1f}" for size in self[1:4]]
        limit = "" if self.limit is None else str(self.limit)
        float64 = "yes" if self.float64 else "no"
        sent = f"{self.bytes_sent:g}"
        return [self.name, *sizes, self.collectives, sent, limit, float64]


def figures(name: str, program: jax.stages.Compiled, p: int) -> Figures:
    """What one compiled program of a solver with p parameters takes."""
    memory: Any = program.memory_analysis()
    text = program.as_text() or ""
    found = collectives(text)
    kinds = collections.Counter(one.kind for one in found)
    return Figures(
        name,
        memory.generated_code_size_in_bytes,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none",
        bytes_per_call(found),
        traffic_limit(name, p),
        has_float64(text),
    )


def traffic_limit(name: str, p: int) -> int | None:
    """The bytes that a program may send per call, with p solver parameters."""
    return {
        "sample": 0,
        "Gauss-Newton step": 16 * (p**2 + p + 64),
        "Adam step": 8 * (p + 64),
    }.get(name)
