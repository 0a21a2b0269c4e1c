"""The reference solve: diffrax's Dopri5, adaptive for each sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from bns_jax import guidance, identity, parallel, probing, scalars
from bns_jax.checks import check_velocity
from bns_jax.pairs import Pairs
from bns_jax.problem import Problem
from bns_jax.pytree import checksum, on_host
from bns_jax.scale_time import RescheduledVelocity, between
from bns_jax.scale_time import identity as no_change
from bns_jax.schedulers import Scheduler, cond_ot
from bns_jax.typing import Array, Sample, VelocityField, wider

_FIRST_STEP = 0.01
_MAX_STEPS = 4096


@dataclasses.dataclass(frozen=True)
class Reference:
    """How every sample is solved.

    Attributes:
      problem: what is solved.
      vf: its field, on its devices.
      scale: guidance scales that the field takes as its last argument, (N, ...), or ().
      save_at: (K,), times at which the trajectory is kept.
      rtol: relative tolerance of a step.
      atol: absolute tolerance of a step.
      precision: of matrix products in the field.
    """

    problem: Problem
    vf: VelocityField
    scale: tuple[np.ndarray, ...]
    save_at: np.ndarray
    rtol: float
    atol: float
    precision: str

    @classmethod
    def of(
        cls,
        problem: Problem,
        count: int,
        save_at: Array | None,
        rtol: float,
        atol: float,
        precision: str,
    ) -> Reference:
        """The reference solve of `count` samples.

        Args:
          problem: what is solved.
          count: N.
          save_at: (K,), sorted times in [0, 1]; 21 uniform ones if None.
          rtol: relative tolerance of a step, positive.
          atol: absolute tolerance of a step, positive.
          precision: of matrix products in the field.

        Returns:
          It, with the field on its devices.

        Raises:
          ValueError: if a time or a tolerance is out of range.
        """
        field, scale = guidance.with_scale_as_argument(problem.pytree, count)
        return cls(
            problem,
            parallel.place(field, problem.mesh),
            scale,
            _check_times(save_at),
            scalars.positive("rtol", rtol),
            scalars.positive("atol", atol),
            precision,
        )

    def facts(self, x0: Sample, args: tuple[Any, ...]) -> dict[str, Any]:
        """What tells these solves from others, as JSON values.

        Args:
          x0: noise, each leaf (N, ...), of which the field is asked about a few.
          args: conditioning, each leaf (N, ...).

        Returns:
          JSON values.

        Raises:
          ValueError: if the field mixes its samples, or returns or refuses something.
        """
        given, mesh = self.problem.pytree, self.problem.mesh
        answers = probing.look(self.vf, x0, (*args, *self.scale), mesh)
        return {
            **identity.of_function("field", given, answers),
            "scheduler": repr(_scheduler_of(given)),
            "prediction": getattr(given, "prediction", None),
            "rtol": self.rtol,
            "atol": self.atol,
            "precision": self.precision,
            "save_at": checksum(self.save_at),
        }

    def solve(
        self, x0: Sample, args: tuple[Any, ...], rows: np.ndarray, size: int
    ) -> Pairs:
        """Solves some samples, as a chunk of always the same size.

        Args:
          x0: noise, each leaf (N, ...).
          args: conditioning, each leaf (N, ...).
          rows: which of the N.
          size: of a chunk.

        Returns:
          Their pairs.

        Raises:
          ValueError: if a solve fails; names the sample and the time.
        """
        mesh, scale = self.problem.mesh, self.scale
        devices = parallel.batch_devices(mesh)
        size = -(-size // devices) * devices
        filled = np.pad(rows, (0, size - len(rows)), mode="edge")
        x0, args, scale = jax.tree.map(lambda leaf: leaf[filled], (x0, args, scale))
        laid = parallel.shard((x0, (*args, *scale)), mesh)
        with jax.default_matmul_precision(self.precision):
            solved = solve(self.vf, *laid, self.save_at, self.rtol, self.atol)
        x0, args, solved = jax.tree.map(
            lambda leaf: on_host(leaf)[: len(rows)], (x0, args, solved)
        )
        _check_solved(solved, rows)
        path = jax.tree.map(lambda leaf: np.moveaxis(leaf, 1, 0), solved.path)
        # Dopri5 reuses its last stage: six evaluations a step, and one to begin with.
        nfe = 6 * solved.steps + 1
        return Pairs(x0, solved.x1, args, nfe, self.save_at, path)


class _Solved(NamedTuple):
    """The reference solves of one chunk; each leaf has the samples in front."""

    x1: Sample
    path: Sample
    steps: jax.Array
    successful: jax.Array
    reached: jax.Array


@jax.jit
def solve(
    vf: Any, x0: Sample, args: Any, save_at: Array, rtol: float, atol: float
) -> _Solved:
    """Dopri5 with one controller per sample.

    A model's velocity is solved as x_bar(r) on the cond-OT path, where it is finite
    up to the end, others as they are. Both start where the field's own t is 0.

    Args:
      vf: the field, a pytree.
      x0: noise, each leaf (B, ...).
      args: conditioning, each leaf (B, ...).
      save_at: (K,), times in [0, 1].
      rtol: relative tolerance of a step.
      atol: absolute tolerance of a step.

    Returns:
      x(1) of each sample, its path (B, K, ...), and how the solve went.
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
        scaled = jax.tree.map(lambda x: x / scale, x0)
        times = jnp.asarray(there.t(save_at))
        solution = _dopri5(rate, jnp.asarray(start), scaled, args, times, rtol, atol)
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


def _dopri5(
    rate: Callable[[Any, Sample, Any], Sample],
    start: jax.Array,
    x0: Sample,
    args: Any,
    save_at: jax.Array,
    rtol: float,
    atol: float,
) -> Any:
    """From `start` to 1: the end, and the points at some times."""
    kept = [diffrax.SubSaveAt(t1=True), diffrax.SubSaveAt(ts=save_at)]
    controller = diffrax.PIDController(
        rtol=rtol,
        atol=atol,
        dtmin=10 * float(jnp.finfo(start.dtype).eps),
        force_dtmin=False,
    )
    return diffrax.diffeqsolve(
        diffrax.ODETerm(rate),
        diffrax.Dopri5(),
        start,
        jnp.ones_like(start),
        _FIRST_STEP,
        x0,
        args,
        saveat=diffrax.SaveAt(subs=kept),
        stepsize_controller=controller,
        max_steps=_MAX_STEPS,
        adjoint=diffrax.ForwardMode(),
        throw=False,
    )


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
        raise ValueError(f"save_at must be sorted times in [0, 1], got {save_at!s:.60}")
    times = times.astype(np.float64)
    in_range = times.ndim == 1 and times.size and np.all((times >= 0) & (times <= 1))
    if not in_range or np.any(np.diff(times) < 0):
        raise ValueError(f"save_at must be sorted times in [0, 1], got {save_at!s:.60}")
    return times
