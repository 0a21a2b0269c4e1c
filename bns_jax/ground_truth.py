"""Ground truth: pairs (x_0, x(1)) of noise and what the exact flow makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bns_jax import parallel, scalars
from bns_jax.checks import check_finite, check_rows
from bns_jax.conventions import warn_unlike
from bns_jax.moved import moved
from bns_jax.pair_store import PairStore
from bns_jax.pairs import Pairs, concatenate
from bns_jax.problem import Problem
from bns_jax.progress import shown
from bns_jax.pytree import checksum
from bns_jax.reference import Reference
from bns_jax.shards import Shards
from bns_jax.typing import Array, Progress, Sample, VelocityField

_CHUNK = 64
_Solve = Callable[[np.ndarray], Iterator[tuple[np.ndarray, Pairs]]]
"""solve(rows) yields rows and their pairs, as they finish."""

_IN_PROBLEM = "bns_jax.Problem(field, {0}=...), in the place of the field"


@moved(
    mesh=_IN_PROBLEM.format("mesh"),
    data=_IN_PROBLEM.format("data"),
    fingerprint=_IN_PROBLEM.format("facts"),
    progress="report=",
)
def pairs(
    vf: Problem | VelocityField,
    x0: Sample,
    *args: Any,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    save_at: Array | None = None,
    chunk: int | None = None,
    directory: epath.PathLike | None = None,
    precision: str = "highest",
    report: Progress | None = None,
) -> Pairs:
    """Solves the sampling ODE from t = 0 to 1 for each sample on its own.

    Each sample has step sizes of its own. A field of `velocity.from_*` is solved on the
    cond-OT path, where it is finite up to t = 1 (eq. 6-8), and reported on its own.

    Args:
      vf: the field, called as vf(t, x, *args) with a batch of independent samples and a
        scalar t; or a `Problem`, whose facts are kept and compared as the field is.
        Processes on several hosts give the same arguments.
      x0: noise, a pytree of float32 or float64 arrays with leading axis N; float64 is
        cut to float32 unless x64 is on.
      *args: conditioning, pytrees of arrays with leading axis N.
      rtol: relative tolerance of a step.
      atol: absolute tolerance of a step.
      save_at: (K,), sorted times in [0, 1] of the path; 21 uniform ones if left out.
      chunk: samples on their way at once, a multiple of the devices; 64 if left out.
      directory: where finished chunks are kept; a second call with the same arguments
        continues. The field is compared by its name, weights and answers, within 0.1 %:
        say smaller differences in the problem's facts.
      precision: of matrix products, a name of `jax.default_matmul_precision`.
      report: report(done, N, note) per chunk; a line on a terminal if left out.

    Returns:
      The pairs, as NumPy arrays; x1 and the path have the dtypes of x0. Those of a
      directory are mapped into memory: what is not in use takes none.

    Raises:
      TypeError: if a leaf of x0 or args is no array of numbers.
      ValueError: if an argument is out of range or not finite, leading axes differ, the
        dtype of x0 cannot reach the tolerances, the field refuses the conditioning
        (`conditioning.check`), the directory holds other pairs, or a solve fails: the
        message names the sample and the time.

    Warns:
      UserWarning: if the problem has data, and the solved samples are unlike them.
    """
    problem = Problem.of(vf)
    count = check_rows({"x0": x0, "args": args})
    x0, args = _check_noise(x0, rtol, atol), jax.tree.map(np.asarray, args)
    size = min(_CHUNK if chunk is None else scalars.count("chunk", chunk), count)
    reference = Reference.of(problem, count, save_at, rtol, atol, precision)
    store = _store(directory, reference, x0, args, size)
    solve = partial(reference.solve, x0, args, width=size)
    with shown(report, "pairs", "samples") as told:
        solved = _solve_all(solve, Shards(count, size), store, told)
    if problem.data is not None:
        warn_unlike(solved.x1, problem.data)
    return solved


def _store(
    directory: epath.PathLike | None,
    reference: Reference,
    x0: Sample,
    args: tuple[Any, ...],
    size: int,
) -> PairStore | None:
    """Where the chunks are kept; None for nowhere. The field is looked at anyway."""
    facts = reference.facts(x0, args)
    if directory is None:
        return None
    facts |= {"x0": checksum(x0), "args": checksum(args), "chunk": size}
    count = np.shape(jax.tree.leaves(x0)[0])[0]
    like = Pairs(x0, x0, args, np.empty(count), reference.save_at, x0)
    return PairStore(directory, _with_own(facts, reference.problem.facts), like, size)


def _solve_all(
    solve: _Solve, shards: Shards, store: PairStore | None, report: Progress
) -> Pairs:
    """The shards that the store has are read, the others are made as samples finish."""
    made: dict[int, Pairs] = {}
    told = _Told(shards.count, report)
    missing = []
    for index in range(len(shards)):
        found = parallel.if_everywhere(store.read(index)) if store else None
        if found is None:
            missing.append(shards.rows(index))
        else:
            told(found)
    for rows, pairs in solve(np.concatenate([*missing, np.empty(0, int)])):
        for index, shard in shards.add(rows, pairs):
            if store:
                store.write(index, shard)
            else:
                made[index] = shard
            told(shard)
    return store.load() if store else concatenate([made[i] for i in sorted(made)])


class _Told:
    """Tells how many samples there are by now, and what they took."""

    def __init__(self, total: int, report: Progress):
        self._total, self._report, self._nfe = total, report, np.empty(0)

    def __call__(self, shard: Pairs) -> None:
        self._nfe = np.append(self._nfe, shard.nfe)
        note = f"{np.mean(self._nfe):.0f} NFE per pair"
        self._report(len(self._nfe), self._total, note)


def _check_can_reach(x0: Sample, rtol: float, atol: float) -> None:
    """Refuses tolerances below what the numbers of the samples resolve."""
    rtol, atol = scalars.positive("rtol", rtol), scalars.positive("atol", atol)
    dtype = jnp.result_type(*jax.tree.leaves(x0))
    least = float(jnp.finfo(dtype).eps)
    if rtol < least and atol < least:
        raise ValueError(
            f"{dtype} cannot reach rtol={rtol:g} and atol={atol:g}; the smallest that "
            f"it can is {least:.2g}, of either of them"
        )


def _with_own(facts: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What is compared anyway, and the facts of the problem."""
    taken = sorted(facts.keys() & own.keys())
    if taken:
        raise ValueError(
            f"the facts of a problem must not name what is compared anyway: {taken}"
        )
    return {**facts, **own}


def _check_noise(x0: Sample, rtol: float, atol: float) -> Sample:
    """The noise as NumPy arrays of the dtypes that JAX holds them in."""
    x0 = jax.tree.map(np.asarray, x0)
    check_finite("x0", x0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(x0):
        if leaf.dtype not in (np.float32, np.float64):
            where = f"x0{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where} must be float32 or float64, got {leaf.dtype}")

    def held(leaf: np.ndarray) -> np.ndarray:
        return leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype), copy=False)

    x0 = jax.tree.map(held, x0)
    _check_can_reach(x0, rtol, atol)
    return x0
