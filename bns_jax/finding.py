"""Finding solvers for a field: several numbers of evaluations, one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from etils import epath

from bns_jax import (
    comparison,
    distill,
    families,
    files,
    ns,
    scalars,
    tables,
)
from bns_jax.comparison import Comparison
from bns_jax.distill import AnyObjective, Distilled, Metric, Optimizer, Report
from bns_jax.distill.checks import check_pairs, check_residuals
from bns_jax.distill.fit import OLD_KEYWORDS
from bns_jax.moved import moved
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs
from bns_jax.problem import Problem
from bns_jax.typing import Progress, VelocityField


class Found(dict[int, Distilled]):
    """Distilled solvers by their number of evaluations; prints as a table.

    Attributes:
      known: what common solvers reach on the same validation pairs.
    """

    def __init__(self, known: Comparison):
        """Starts empty.

        Args:
          known: what common solvers reach.
        """
        super().__init__()
        self.known = known

    @property
    def params(self) -> dict[int, NSParams]:
        """The solvers alone."""
        return {nfe: fitted.params for nfe, fitted in self.items()}

    def _column(self, nfe: int) -> dict[str, str]:
        """What there is to say of one number of evaluations."""
        fitted, best = self[nfe], self.known.best(nfe)
        return {
            "best common solver": best.solver,
            "reaches": f"{best.mean:.2f}",
            "start of the search": f"{fitted.history[0].val_metric:.2f}",
            "found": f"{fitted.val_metric:.2f}",
            "gain over it": f"{fitted.val_metric - best.mean:+.2f}",
            "training minus validation": f"{fitted.overfit:+.2f}",
            "field calls to find it": f"{fitted.forwards:,}",
            "seconds": f"{fitted.history[-1].seconds:.0f}",
        }

    def __str__(self) -> str:
        """A column per number of evaluations."""
        columns = [self._column(nfe) for nfe in self]
        lines: list[list[str]] = [["on validation pairs", *map("NFE {}".format, self)]]
        lines += [[], *([label, *(c[label] for c in columns)] for label in columns[0])]
        advice = {f"NFE {nfe}: {f.advice}" for nfe, f in self.items() if f.advice}
        return "\n\n".join([tables.aligned(lines), *sorted(advice)])


@moved(
    scheduler="bns_jax.Problem(field, scheduler), in the place of the field",
    **OLD_KEYWORDS,
)
def find(
    vf: Problem | VelocityField,
    train: Pairs,
    validation: Pairs,
    nfe: int | Sequence[int],
    *,
    optimizer: Optimizer | None = None,
    objective: AnyObjective = distill.psnr_loss,
    metric: Metric | None = None,
    seed: int = 0,
    checkpoint: epath.PathLike | None = None,
    report: Report | Progress | None = None,
) -> Found:
    """Finds the best solver for a field, at one or several numbers of evaluations.

    Each search begins at a solver fitted row by row to the true trajectories, on three
    grids and on times like those of the solver before; then it is distilled.

    Args:
      vf: the field, or a `Problem`, whose scheduler says which known solvers there are.
      train: pairs to fit.
      validation: pairs that choose the iteration.
      nfe: numbers of evaluations.
      optimizer: of each search; this and the next three as in `distill.fit`.
      objective: what is minimized.
      metric: what solvers are judged by.
      seed: of each search.
      checkpoint: a directory, where each search keeps its state and continues, given
        the same NFE and kind of machine: its start is computed again.
      report: called at each validation; a line on a terminal if left out.

    Returns:
      The solvers by NFE; `print` shows what they reach, `.params` are their arrays.

    Raises:
      ValueError: as `distill.fit`, before any search where that can be seen.
    """
    counts = sorted({scalars.nfe(count) for count in np.atleast_1d(nfe).tolist()})
    problem = Problem.of(vf)
    _check(problem, train, validation, max(counts))
    known = comparison.compare(
        problem, validation, counts, names=["common"], metric=metric
    )
    train = distill.with_path(problem.field, train, problem.mesh)
    found = Found(known)
    for count in counts:
        start = _start(problem, train, count, found)
        found[count] = distill.fit(
            families.bns(start),
            problem,
            train,
            validation,
            checkpoint=_folder(checkpoint, count),
            optimizer=optimizer,
            objective=objective,
            metric=metric,
            seed=seed,
            report=report,
        )
    return found


def _check(problem: Problem, train: Pairs, validation: Pairs, nfe: int) -> None:
    """What can be seen before anything is measured."""
    check_pairs(train, validation)
    # The first time of a solver is no parameter.
    check_residuals(train, ns.num_params(nfe) - 1)
    for data in (train, validation):
        problem.check_args(data.args)


def _start(problem: Problem, train: Pairs, nfe: int, found: Found) -> NSParams:
    """Fitted row by row, also on times as dense as those of the solver before."""
    smaller = found[max(found)].params if found else None
    grids = distill.grids_after(train, smaller)
    return distill.greedy(problem, train, nfe, grids)


def _folder(checkpoint: epath.PathLike | None, nfe: int) -> epath.Path | None:
    if checkpoint is None:
        return None
    return files.place(checkpoint, "checkpoint") / f"bns_{nfe}"
