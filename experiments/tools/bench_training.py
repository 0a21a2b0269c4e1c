"""What a Gauss-Newton step takes: memory and algebra."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax import distill, families, ns, solvers
from bns_jax.distill import Batch, Objective
from bns_jax.distill.gauss_newton import damped_step
from bns_jax.distill.state import initial_state
from bns_jax.distill.step import Task, make_step
from experiments.tools.bench_sampling import interleaved

_DAMPINGS = (1e-4, 1e-2)
_RUNS = 9


def memory() -> None:
    """Temporary memory of a step, as the compiler counts it."""
    print("\ntemporaries of a Gauss-Newton step, over the size of its batch, n = 8")
    for count, micro in ((8, 1), (264, 8)):
        side = 256
        size = 4 * 3 * side**2 * count
        for name, loss in (
            ("psnr", distill.psnr_loss),
            ("huber", distill.huber_loss()),
        ):
            taken = _temporaries((count, side, side, 3), micro, loss)
            print(
                f"  {count:3d} of 3 x {side}^2, microbatch {micro}, {name:5s}  "
                f"{taken / size:5.1f}, {taken / 2**30:.2f} GiB"
            )


def _temporaries(shape: tuple[int, ...], micro: int, loss: Callable[..., Any]) -> int:
    """Bytes, of a step on samples that need not be there."""
    trainer, family = distill.gauss_newton().trainer(1), families.bns(solvers.euler(8))
    objective = Objective(distill.pairwise(loss))
    step: Any = make_step(trainer, Task(family.to_params, objective, micro))
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    weights: Any = jax.ShapeDtypeStruct(shape[:1], jnp.float32)
    state = jax.eval_shape(lambda: initial_state(family, trainer, 0))
    vf = jax.tree_util.Partial(_field, jax.ShapeDtypeStruct((), jnp.float32))
    compiled = step.lower(vf, state, Batch(x, x, (), weights)).compile()
    return int(compiled.memory_analysis().temp_size_in_bytes)


def _field(weight: jax.Array, t: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tanh(weight * x + t)


def algebra() -> None:
    """The damped steps from a curvature, against those by its eigenvalues."""
    print("\ndamped steps by Cholesky factors / by eigenvalues, float64")
    with jax.enable_x64(True):
        for nfe in (8, 16, 32, 48):
            p = ns.num_params(nfe)
            rng = np.random.default_rng(0)
            rows = rng.normal(size=(2 * p, p)) * np.geomspace(1, 1e-4, p)
            C, g = jnp.asarray(rows.T @ rows), jnp.asarray(rng.normal(size=p))
            cholesky = partial(jax.jit(_by_cholesky), C, g)
            eigen = partial(jax.jit(_by_eigenvalues), C, g)
            ours, theirs = (
                1e3 * np.median(seconds)
                for seconds in interleaved(cholesky, eigen, _RUNS)
            )
            print(
                f"  n = {nfe:2d}  {ours:7.1f} / {theirs:7.1f} ms  {ours / theirs:.2f}"
            )


def _by_cholesky(C: jax.Array, g: jax.Array) -> list[jax.Array]:
    return [damped_step(C, g, jnp.asarray(damping)) for damping in _DAMPINGS]


def _by_eigenvalues(C: jax.Array, g: jax.Array) -> list[jax.Array]:
    scale = 1 / jnp.sqrt(jnp.diag(C))
    size, V = jnp.linalg.eigh(C * scale[:, None] * scale[None])
    along = V.T @ (scale * g)
    return [-scale * (V @ (along / (size + damping))) for damping in _DAMPINGS]
