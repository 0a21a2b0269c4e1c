"""Two trainers on the same pairs: test PSNR against field calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from bns_jax import Problem, distill, families, solvers, tables
from bns_jax.distill import HistoryRow, Optimizer
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs
from experiments.job import comparison, optimizers, starts
from experiments.report import display
from experiments.report.figure import plt, save
from experiments.run import preemption
from experiments.run.progress import ProgressBar
from experiments.run.workdir import Workdir, read_csv, write_csv

_WITHIN_DB = 0.1


class Point(NamedTuple):
    """A solver on the way.

    Attributes:
      iteration: steps done.
      forwards: calls of the field on one sample, those of its start included.
      validation_db: PSNR on the validation pairs.
      test_db: PSNR on the test pairs.
    """

    iteration: int
    forwards: int
    validation_db: float
    test_db: float


class Duel(NamedTuple):
    """What happened at one number of evaluations.

    Attributes:
      nfe: that number.
      algorithm2: its way.
      gauss_newton: one way per seed.
    """

    nfe: int
    algorithm2: list[Point]
    gauss_newton: list[list[Point]]

    @property
    def reached_db(self) -> list[float]:
        """Where each search ended, on the test pairs."""
        return [end(way).test_db for way in (self.algorithm2, *self.gauss_newton)]


def run(
    model: Problem,
    pairs: dict[str, Pairs],
    nfe: int,
    iterations: int,
    seeds: int,
    workdir: Workdir,
) -> Duel:
    """Both trainers at one number of evaluations; what is finished is read."""
    greedy = starts.find(starts.GREEDY, model, pairs, nfe, None, workdir)
    newton = [
        _train(
            model,
            pairs,
            f"gauss_newton_{nfe}_seed{seed}",
            greedy.params,
            distill.gauss_newton().replace(evaluate_every=1, patience=12),
            seed,
            greedy.forwards,
            workdir,
        )
        for seed in range(seeds)
    ]
    adam = distill.recipe("images").replace(iterations=iterations)
    name, start = f"algorithm2_{nfe}", solvers.midpoint(nfe)
    algorithm2 = _train(model, pairs, name, start, adam, 0, 0, workdir)
    return Duel(nfe, algorithm2, newton)


def read(folder: epath.PathLike, nfe: int) -> Duel:
    """What a run has left in its folder of histories.

    Raises:
      ValueError: if a trainer has none there.
    """
    algorithm2, newton = (
        [read_csv(path, Point) for path in sorted(epath.Path(folder).glob(pattern))]
        for pattern in (f"algorithm2_{nfe}.csv", f"gauss_newton_{nfe}_seed*.csv")
    )
    if not algorithm2 or not newton:
        raise ValueError(
            f"expected histories of both trainers at {nfe} evaluations in {folder}, "
            f"got {len(algorithm2)} and {len(newton)}"
        )
    return Duel(nfe, algorithm2[0], newton)


def _train(
    model: Problem,
    pairs: dict[str, Pairs],
    name: str,
    start: NSParams,
    optimizer: Optimizer,
    seed: int,
    cost_of_start: int,
    workdir: Workdir,
) -> list[Point]:
    """One run, with every validated solver measured on the test pairs too."""
    path = workdir.history(name)
    points = read_csv(path, Point) if path.exists() else []

    def measure(row: HistoryRow, params: NSParams) -> None:
        test = float(np.mean(comparison.psnr(model, params, pairs["test"])))
        forwards = cost_of_start + row.forwards
        # A run that died between its checkpoint and this file measures a row again.
        points[:] = [point for point in points if point.iteration < row.iteration]
        points.append(Point(row.iteration, forwards, row.val_metric, test))
        write_csv(path, Point._fields, points)

    with ProgressBar(name, "step") as progress:
        distill.fit(
            families.bns(start),
            model,
            pairs["train"],
            pairs["validation"],
            optimizer=optimizers.cached(model, optimizer, pairs["train"].size),
            seed=seed,
            checkpoint=workdir.checkpoint(name),
            report=distill.Report(progress, measure, preemption.asked),
        )
    return points


def end(points: Sequence[Point]) -> Point:
    """The one that a user gets: of the best validation."""
    return max(points, key=lambda point: point.validation_db)


def reaches(points: Sequence[Point], test_db: float) -> float:
    """Field calls until what a user would get is there; infinite if it never is."""
    on_the_way = (points[: i + 1] for i in range(len(points)))
    there = (past for past in on_the_way if end(past).test_db >= test_db)
    return next((past[-1].forwards for past in there), np.inf)


def table(duels: Sequence[Duel]) -> str:
    """A column per number of evaluations."""
    columns = [_column(duel) for duel in duels]
    lines: list[list[str]] = [["", *(f"NFE {duel.nfe}" for duel in duels)], []]
    for label in columns[0]:
        lines.append([label, *(column[label] for column in columns)])
    return tables.aligned(lines)


def _column(duel: Duel) -> dict[str, str]:
    adam = end(duel.algorithm2)
    spent = duel.algorithm2[-1].forwards
    ends = [end(points).test_db for points in duel.gauss_newton]
    calls = np.median([reaches(p, adam.test_db) for p in duel.gauss_newton])
    close = np.median(
        [reaches(p, adam.test_db - _WITHIN_DB) for p in duel.gauss_newton]
    )
    return {
        "Algorithm 2 ends at (dB)": f"{adam.test_db:.2f}",
        "after steps": f"{duel.algorithm2[-1].iteration:,}",
        "and forwards": f"{spent:,}",
        "Gauss-Newton is there after forwards": f"{calls:,.0f}",
        "a share of": f"1/{spent / calls:.0f}",
        f"within {_WITHIN_DB} dB of it after": f"{close:,.0f}",
        "a share of ": f"1/{spent / close:.0f}",
        "Gauss-Newton ends at (dB), median": f"{np.median(ends):.2f}",
        "least": f"{min(ends):.2f}",
        "most": f"{max(ends):.2f}",
        "gain at the end (dB)": f"{np.median(ends) - adam.test_db:+.2f}",
    }


def plot(
    duels: Sequence[Duel], path: epath.Path, title: str, data_range: float = 2.0
) -> None:
    """Test PSNR against forwards: a color per NFE, dashed for Algorithm 2."""
    figure, axes = plt.subplots(figsize=(7.4, 4.6), layout="constrained")
    for index, duel in enumerate(duels):
        colour = f"C{index}"
        for seed, points in enumerate(duel.gauss_newton):
            label = f"Gauss-Newton, {duel.nfe} NFE" if seed == 0 else None
            axes.plot(*_best_so_far(points), color=colour, label=label)
        label = f"Algorithm 2, {duel.nfe} NFE"
        axes.plot(*_best_so_far(duel.algorithm2), "--", color=colour, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("forwards (field calls on one sample, backward counted twice)")
    axes.set_ylabel(f"{display.psnr_of(data_range)}, test pairs (dB)")
    axes.set_title(f"{title}\nthe solver of the best validation so far")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)


def _best_so_far(points: Sequence[Point]) -> tuple[list[int], list[float]]:
    best = [end(points[: i + 1]) for i in range(len(points))]
    # The logarithm has no place for the 0 of the start.
    forwards = [max(point.forwards, 1_000) for point in points]
    return forwards, [point.test_db for point in best]
