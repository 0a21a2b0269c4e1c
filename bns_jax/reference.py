"""The reference solve: diffrax's Dopri5, adaptive for each sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from bns_jax import guidance, identity, parallel, probing, scalars
from bns_jax.lanes import FAILED, MAX_STEPS, Arrived
from bns_jax.ode import scheduler_of
from bns_jax.pairs import Pairs
from bns_jax.problem import Problem
from bns_jax.pytree import checksum
from bns_jax.refilling import Queue, ends
from bns_jax.typing import Array, Sample, VelocityField


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
            "scheduler": repr(scheduler_of(given)),
            "prediction": getattr(given, "prediction", None),
            "rtol": self.rtol,
            "atol": self.atol,
            "precision": self.precision,
            "save_at": checksum(self.save_at),
        }

    def solve(
        self, x0: Sample, args: tuple[Any, ...], rows: np.ndarray, width: int
    ) -> Iterator[tuple[np.ndarray, Pairs]]:
        """Solves some samples; those beyond the width wait until others have finished.

        Args:
          x0: noise, each leaf (N, ...).
          args: conditioning, each leaf (N, ...).
          rows: which of the N, in the order in which they start.
          width: how many are on their way at once.

        Yields:
          The rows that have just finished, and their pairs.

        Raises:
          ValueError: if a solve fails; names the sample and the time.
        """
        mesh = self.problem.mesh
        devices = parallel.batch_devices(mesh)
        width = -(-width // devices) * devices
        queue = Queue(self._run, (x0, (*args, *self.scale)), rows, width, mesh)
        for over, end in ends(self._run, queue, self.save_at, self.rtol, self.atol):
            _check_solved(end, over)
            yield over, self._pairs(x0, args, over, end)

    def _pairs(
        self, x0: Sample, args: tuple[Any, ...], rows: np.ndarray, end: Arrived
    ) -> Pairs:
        """The pairs of some rows, from the ends of their solves."""
        x0, args = jax.tree.map(lambda leaf: leaf[rows], (x0, args))
        path = jax.tree.map(lambda leaf: np.moveaxis(leaf, 1, 0), end.path)
        # Dopri5 reuses its last stage: six evaluations a step, and one to begin with.
        nfe = 6 * np.asarray(end.steps) + 1
        return Pairs(x0, end.x1, args, nfe, self.save_at, path)

    def _run(self, program: Callable[..., Any], *args: Any) -> Any:
        """Calls one of `lanes`."""
        with jax.default_matmul_precision(self.precision):
            return program(self.vf, *args, mesh=self.problem.mesh)


def _check_solved(ended: Arrived, rows: np.ndarray) -> None:
    """Names the first sample whose solve failed, and when."""
    leaves = jax.tree.leaves((ended.x1, ended.path))
    finite = np.all(
        [np.isfinite(leaf).reshape(len(rows), -1).all(axis=1) for leaf in leaves], 0
    )
    failed = np.flatnonzero((ended.status == FAILED) | ~finite)
    if not len(failed):
        return
    first = failed[np.argmin(rows[failed])]
    steps, time = int(ended.steps[first]), float(ended.t[first])
    reason = (
        f"used all of its {MAX_STEPS} steps"
        if steps >= MAX_STEPS
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
