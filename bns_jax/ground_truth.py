"""Ground truth: pairs (x_0, x(1)) by diffrax's Dopri5, adaptive for each sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from bns_jax import guidance, identity, parallel, probing, scalars
from bns_jax.checks import check_finite, check_rows, check_velocity
from bns_jax.conventions import warn_unlike
from bns_jax.pair_store import PairStore
from bns_jax.pairs import Pairs, concatenate
from bns_jax.problem import Problem
from bns_jax.progress import on_terminal
from bns_jax.pytree import checksum, on_host
from bns_jax.scale_time import RescheduledVelocity, between
from bns_jax.scale_time import identity as no_change
from bns_jax.schedulers import Scheduler, cond_ot
from bns_jax.typing import Array, Progress, Sample, VelocityField, wider

_CHUNK = 64
_FIRST_STEP = 0.01
_MAX_STEPS = 4096


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
    fingerprint: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    mesh: Mesh | None = None,
    data: Sample | None = None,
) -> Pairs:
    """Solves the sampling ODE from t = 0 to 1 for each sample on its own.

    Each sample has its own step sizes, so its ground truth does not depend on its
    companions. Fields made by `velocity.from_epsilon` and its siblings know their
    scheduler: they are solved in the coordinates of the cond-OT path, where they are
    finite up to t = 1 (eq. 6-8), and reported in their own.

    Args:
      vf: the field, called as vf(t, x, *args) with a batch and a scalar t; it treats
        samples independently. Or a `Problem`, whose facts are kept as `fingerprint` is.
      x0: noise, a pytree of float32 or float64 arrays with leading axis N; float64 is
        cut to float32 unless x64 is on.
      *args: conditioning, pytrees of arrays with leading axis N.
      rtol: relative tolerance of a step.
      atol: absolute tolerance of a step.
      save_at: sorted times in [0, 1] at which the trajectory is kept, 21 uniform ones
        if left out.
      chunk: samples solved at once, which bounds the memory; 64 if left out. Give a
        multiple of the devices where there are more.
      directory: where finished chunks are kept. A second call with the same
        arguments continues there. The field is compared by its name, the weights that
        are its leaves, and what it answers about a few samples, within 0.1 %: name
        smaller differences of what a function closes over in `fingerprint`.
      precision: of matrix products in the field, a name that
        `jax.default_matmul_precision` takes.
      fingerprint: JSON values to keep with the pairs on disk and to compare when
        they are continued: the model's name, guidance, seed. What is compared anyway
        (field, weights, x0, tolerances, ...) may not be named again.
      progress: called after each chunk with the samples done and N; a line on a
        terminal if left out.
      mesh: devices to lay each chunk over, along the mesh's first axis; those of the
        problem if left out. Processes on several hosts give the same arguments, and a
        directory that all of them see.
      data: clean samples, leaves (M, ...), to hold the solved ones against: a warning
        says if they are unlike, as with a wrong time, scheduler or prediction. See also
        `conventions.check`.

    Returns:
      The pairs, as NumPy arrays; x1 and the path have the dtypes of x0. Those of a
      directory are mapped into memory: what is not in use takes none.

    Raises:
      TypeError: if a leaf of x0 or args is no array of numbers.
      ValueError: if leaves have different leading axes, x0 is not finite, a time or a
        tolerance is out of range, the field refuses the conditioning (see
        `conditioning.check`; a label that does not exist), the directory holds pairs
        of another configuration, or a solve fails: the message names the sample and
        the time.

    Warns:
      UserWarning: if the solved samples are unlike `data`.
    """
    if data is not None:
        check_rows({"data": data})
        check_finite("data", data)
    save_at = _check_times(save_at)
    count = check_rows({"x0": x0, "args": args})
    x0, args = jax.tree.map(np.asarray, (x0, args))
    _check_noise(x0)
    x0 = jax.tree.map(_as_jax_holds_it, x0)
    rtol, atol = scalars.positive("rtol", rtol), scalars.positive("atol", atol)
    size = min(_CHUNK if chunk is None else scalars.count("chunk", chunk), count)
    problem = Problem.of(vf)
    given, mesh = problem.pytree, mesh or problem.mesh
    field, scale = guidance.with_scale_as_argument(given, count)
    solve = _Solve(
        parallel.place(field, mesh), scale, save_at, rtol, atol, precision, mesh
    )
    answers = probing.look(solve.vf, x0, (*args, *scale), mesh)
    store = None
    if directory is not None:
        facts = solve.facts(given, answers) | {
            "x0": checksum(x0),
            "args": checksum(args),
            "chunk": size,
        }
        facts = _with_fingerprint(facts, {**problem.facts, **(fingerprint or {})})
        like = Pairs(x0, x0, args, np.empty(count), save_at, x0)
        store = PairStore(directory, facts, like, size)

    report = progress or on_terminal("pairs", "samples")
    shards: list[Pairs] = []
    evaluations = 0
    for index, first in enumerate(range(0, count, size)):
        rows = np.arange(first, min(first + size, count))
        shard = parallel.if_everywhere(store.read(index)) if store else None
        if shard is None:
            shard = _solve_chunk(solve, x0, args, rows, size)
            if store:
                store.write(index, shard)
        if store is None:
            shards.append(shard)
        evaluations += int(np.sum(shard.nfe))
        done = first + len(rows)
        report(done, count, f"{evaluations / done:.0f} NFE per pair")
    solved = concatenate(shards) if store is None else store.load()
    if data is not None:
        warn_unlike(solved.x1, data)
    return solved


class _Solve(NamedTuple):
    """What is solved for every sample."""

    vf: VelocityField
    scale: tuple[np.ndarray, ...]
    save_at: np.ndarray
    rtol: float
    atol: float
    precision: str
    mesh: Mesh | None

    def facts(self, given: Any, answers: identity.Probe) -> dict[str, Any]:
        """What tells these pairs from others, as JSON values.

        Args:
          given: the field as the user gave it.
          answers: its probe.
        """
        return {
            **identity.of_function("field", given, answers),
            "scheduler": repr(_scheduler_of(given)),
            "prediction": getattr(given, "prediction", None),
            "rtol": self.rtol,
            "atol": self.atol,
            "precision": self.precision,
            "save_at": checksum(self.save_at),
        }


class _Solved(NamedTuple):
    """The reference solves of one chunk; each leaf has the samples in front."""

    x1: Sample
    path: Sample
    steps: jax.Array
    successful: jax.Array
    reached: jax.Array


def _solve_chunk(
    problem: _Solve, x0: Sample, args: Any, rows: np.ndarray, size: int
) -> Pairs:
    """Solves the samples `rows`, as a chunk of always the same size."""
    devices = parallel.batch_devices(problem.mesh)
    size = -(-size // devices) * devices
    filled = np.pad(rows, (0, size - len(rows)), mode="edge")
    x0, args, scale = jax.tree.map(lambda leaf: leaf[filled], (x0, args, problem.scale))
    laid = parallel.shard((x0, (*args, *scale)), problem.mesh)
    with jax.default_matmul_precision(problem.precision):
        solved = solve(problem.vf, *laid, problem.save_at, problem.rtol, problem.atol)
    x0, args, solved = jax.tree.map(
        lambda leaf: on_host(leaf)[: len(rows)], (x0, args, solved)
    )
    _check_solved(solved, rows)
    path = jax.tree.map(lambda leaf: np.moveaxis(leaf, 1, 0), solved.path)
    # Dopri5 reuses its last stage: six evaluations a step, and one to begin with.
    nfe = 6 * solved.steps + 1
    return Pairs(x0, solved.x1, args, nfe, problem.save_at, path)


@jax.jit
def solve(
    vf: Any, x0: Sample, args: Any, save_at: Array, rtol: float, atol: float
) -> _Solved:
    """Dopri5 with one controller per sample.

    A model's velocity is solved as x_bar(r) on the cond-OT path, where it is finite
    up to the end, others as they are. Both start where the field's own t is 0.
    """
    dtype = wider(*(leaf.dtype for leaf in jax.tree.leaves(x0)))
    save_at, scheduler = jnp.asarray(save_at, dtype), _scheduler_of(vf)
    field, there, back = vf, no_change(), no_change()
    if scheduler is not None:
        field = RescheduledVelocity(vf, cond_ot())
        there, back = between(cond_ot(), scheduler), between(scheduler, cond_ot())
    start = there.t(jnp.zeros((), dtype))

    def rate(r: Any, x: Sample, args: Any) -> Sample:
        batch_x, batch_args = jax.tree.map(lambda leaf: leaf[None], (x, args))
        u = field(r, batch_x, *batch_args)
        check_velocity(u, batch_x, r)
        # The controller gives up on nan at once, but tries on against infinity.
        return jax.tree.map(lambda u: jnp.where(jnp.isfinite(u), u, jnp.nan)[0], u)

    def solve(x0: Sample, args: Any) -> _Solved:
        scale = there.s(jnp.zeros((), dtype))
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(rate),
            diffrax.Dopri5(),
            start,
            jnp.ones((), dtype),
            _FIRST_STEP,
            jax.tree.map(lambda x: x / scale, x0),
            args,
            saveat=diffrax.SaveAt(
                subs=[
                    diffrax.SubSaveAt(t1=True),
                    diffrax.SubSaveAt(ts=jnp.asarray(there.t(save_at))),
                ]
            ),
            stepsize_controller=diffrax.PIDController(
                rtol=rtol,
                atol=atol,
                dtmin=10 * float(jnp.finfo(dtype).eps),
                force_dtmin=False,
            ),
            max_steps=_MAX_STEPS,
            adjoint=diffrax.ForwardMode(),
            throw=False,
        )
        (end, kept), (times, _) = solution.ys, solution.ts
        scales = there.s(save_at)
        return _Solved(
            jax.tree.map(lambda x: x[0], end),
            jax.tree.map(lambda x: jax.vmap(jnp.multiply)(x, scales), kept),
            solution.stats["num_steps"],
            solution.result == diffrax.RESULTS.successful,
            jnp.asarray(back.t(times[0])),
        )

    return jax.vmap(solve)(x0, args)


def _scheduler_of(vf: Any) -> Scheduler | None:
    """The path of a field that names both of its ends; None for other fields."""
    return vf.scheduler if hasattr(vf, "ends") else None


def _check_solved(solved: _Solved, rows: np.ndarray) -> None:
    """Names the first sample whose solve failed, and when."""
    leaves = jax.tree.leaves((solved.x1, solved.path))
    finite = np.all(
        [np.isfinite(leaf).reshape(len(rows), -1).all(axis=1) for leaf in leaves], 0
    )
    failed = ~(solved.successful & finite)
    if not failed.any():
        return
    first = int(np.argmax(failed))
    steps, time = int(solved.steps[first]), float(solved.reached[first])
    reason = (
        f"used all of its {_MAX_STEPS} steps"
        if steps >= _MAX_STEPS
        else "found no step small enough; the field is not finite or not smooth there"
    )
    raise ValueError(
        f"the reference solve of sample {rows[first]} stopped at t = {time:.6g} after "
        f"{steps} steps: it {reason}"
    )


def _check_times(save_at: Array | None) -> np.ndarray:
    times = np.linspace(0.0, 1.0, 21) if save_at is None else np.asarray(save_at)
    if times.dtype.kind not in "fiu":
        raise ValueError(f"save_at must be sorted times in [0, 1], got {save_at}")
    times = times.astype(np.float64)
    in_range = times.ndim == 1 and times.size and np.all((times >= 0) & (times <= 1))
    if not in_range or np.any(np.diff(times) < 0):
        raise ValueError(f"save_at must be sorted times in [0, 1], got {save_at}")
    return times


def _with_fingerprint(
    facts: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> dict[str, Any]:
    if not isinstance(fingerprint, Mapping):
        raise TypeError(
            f"fingerprint must be a mapping, got {type(fingerprint).__name__}"
        )
    taken = sorted(facts.keys() & fingerprint.keys())
    if taken:
        raise ValueError(f"fingerprint must not name what is compared anyway: {taken}")
    return {**facts, **fingerprint}


def _as_jax_holds_it(leaf: np.ndarray) -> np.ndarray:
    return leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype), copy=False)


def _check_noise(x0: Sample) -> None:
    check_finite("x0", x0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(x0):
        if leaf.dtype not in (np.float32, np.float64):
            where = f"x0{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where} must be float32 or float64, got {leaf.dtype}")
