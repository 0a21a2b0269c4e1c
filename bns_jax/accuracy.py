"""How exact ground truth is: a few pairs are solved again, far more finely."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from etils import epath

from bns_jax import ground_truth, scalars
from bns_jax.pairs import Pairs, check, first
from bns_jax.problem import Problem
from bns_jax.pytree import on_host
from bns_jax.typing import Progress, VelocityField

_FINER = 0.1
_MARGIN_DB = 10.0
_ORDER_ALLOWS = _FINER ** (-1 / 5)
_LARGEST_GROWTH = 1.8


class Accuracy(NamedTuple):
    """What pairs reach, measured as if they were samples of a solver.

    Attributes:
      psnr_db: mean PSNR over the pairs that were solved again, in dB.
      growth: evaluations of the finer solve over those of the pairs.
      pairs: how many were solved again.
    """

    psnr_db: float
    growth: float
    pairs: int

    def __str__(self) -> str:
        """One line, for below a table."""
        return (
            f"the ground truth itself reaches {self.psnr_db:.1f} dB, by {self.pairs} "
            f"pairs that were solved again at {_FINER:g} of its tolerance"
        )

    def doubts(self, reached_db: Iterable[float]) -> list[str]:
        """What the pairs cannot tell.

        Args:
          reached_db: what solvers reach on these pairs, in dB.

        Returns:
          A sentence each: if solvers come within 10 dB of the truth, and if its
          evaluations grow with the tolerance faster than the order of Dopri5 allows.
        """
        doubts = []
        close = [db for db in reached_db if db > self.psnr_db - _MARGIN_DB]
        if close:
            doubts.append(
                f"{len(close)} results of up to {max(close):.1f} dB are within "
                f"{_MARGIN_DB:g} dB of the ground truth itself, {self.psnr_db:.1f} dB: "
                "its own error is part of them; smaller rtol and atol make it smaller"
            )
        if self.growth > _LARGEST_GROWTH:
            doubts.append(
                f"at {_FINER:g} of its tolerance the ground truth takes "
                f"{self.growth:.1f} times the evaluations, where a smooth field takes "
                f"{_ORDER_ALLOWS:.1f} times: this one is not smooth in t, as with time "
                "embeddings of high frequencies; smaller rtol and atol see more of it"
            )
        return doubts


def measure(
    vf: Problem | VelocityField,
    data: Pairs,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    count: int = 64,
    chunk: int | None = None,
    directory: epath.PathLike | None = None,
    report: Progress | None = None,
) -> Accuracy:
    """Solves a few pairs again, at a tenth of their tolerance.

    Args:
      vf: the field, or a `Problem`.
      data: pairs that `ground_truth.pairs` made of it.
      rtol: the relative tolerance that they were made with.
      atol: the absolute tolerance.
      count: how many to solve again, at most.
      chunk: samples on their way at once, as in `ground_truth.pairs`.
      directory: where the finer pairs are kept.
      report: report(done, count, note), as in `ground_truth.pairs`.

    Returns:
      What the pairs reach by the PSNR of the problem.

    Raises:
      ValueError: as of `ground_truth.pairs`, or if the pairs say no evaluations, as
        those of `Pairs.of`.
    """
    check(data)
    problem = Problem.of(vf)
    some = first(data, scalars.count("count", count))
    if not np.all(some.nfe):
        raise ValueError(
            "expected pairs of ground_truth.pairs, got some that say no evaluations"
        )
    finer = ground_truth.pairs(
        problem,
        some.x0,
        *some.args,
        rtol=_FINER * scalars.positive("rtol", rtol),
        atol=_FINER * scalars.positive("atol", atol),
        save_at=some.times,
        chunk=chunk,
        directory=directory,
        report=report,
    )
    psnr = on_host(problem.metric(some.x1, finer.x1))
    growth = float(np.mean(finer.nfe) / np.mean(some.nfe))
    return Accuracy(float(np.mean(psnr)), growth, some.size)
