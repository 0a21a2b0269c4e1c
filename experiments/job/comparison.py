"""What solvers reach on the pairs of a model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from etils import epath

from bns_jax import Problem, comparison, distill
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs
from experiments.report import curves, display
from experiments.report.table import Row
from experiments.run.progress import ProgressBar
from experiments.run.workdir import Workdir, write_csv


def compare(
    model: Problem,
    solvers: Mapping[int, Mapping[str, NSParams]],
    pairs: Pairs,
    directory: epath.Path | None = None,
) -> list[Row]:
    """The mean PSNR of every solver.

    Args:
      model: its field.
      solvers: number of evaluations -> name -> solver.
      pairs: to measure on.
      directory: where results are kept, and read if they are there.

    Returns:
      One row each, in the order given.
    """
    chosen = {
        (name, nfe): params
        for nfe, named in solvers.items()
        for name, params in named.items()
    }
    with ProgressBar("compare", "solver") as progress:
        results = comparison.measure_all(
            model,
            pairs,
            chosen,
            directory=directory,
            report=progress,
        )
    return [Row(*result) for result in results]


def psnr(model: Problem, params: NSParams, pairs: Pairs) -> np.ndarray:
    """What a solver reaches on each pair, in dB."""
    return distill.evaluate(params, model, pairs)


def best(rows: list[Row], nfe: int) -> Row:
    """The best row at one number of evaluations; those that blew up come last."""
    there = [row for row in rows if row.nfe == nfe]
    return max(there, key=lambda row: (not np.isnan(row.psnr_db), row.psnr_db))


def write(rows: list[Row], model: Problem, workdir: Workdir) -> None:
    """table.csv and psnr_vs_nfe.png."""
    cells = [row.cells() for row in rows]
    write_csv(workdir.root / "table.csv", Row._fields, cells)
    path = workdir.root / "psnr_vs_nfe.png"
    curves.plot_psnr(rows, path, display.title(model), model.data_range)
