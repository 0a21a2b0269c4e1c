"""What solvers reach on the pairs of a model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from etils import epath

from bns_jax import comparison, distill
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs
from experiments.models.catalogue import Model
from experiments.report import curves
from experiments.report.table import Row
from experiments.run.progress import Progress
from experiments.run.workdir import Workdir, write_csv


def compare(
    model: Model,
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
    with Progress("compare", "solver") as progress:
        results = comparison.measure_all(
            model.field,
            pairs,
            chosen,
            metric=model.metric,
            mesh=model.mesh,
            directory=directory,
            report=progress,
        )
    return [Row(*result) for result in results]


def psnr(model: Model, params: NSParams, pairs: Pairs) -> np.ndarray:
    """What a solver reaches on each pair, in dB."""
    return distill.evaluate(params, model.field, pairs, model.metric, model.mesh)


def best(rows: list[Row], nfe: int) -> Row:
    """The best row at one number of evaluations; those that blew up come last."""
    there = [row for row in rows if row.nfe == nfe]
    return max(there, key=lambda row: (not np.isnan(row.psnr_db), row.psnr_db))


def write(rows: list[Row], model: Model, workdir: Workdir) -> None:
    """table.csv and psnr_vs_nfe.png."""
    cells = [row.cells() for row in rows]
    write_csv(workdir.root / "table.csv", Row._fields, cells)
    path = workdir.root / "psnr_vs_nfe.png"
    curves.plot_psnr(rows, path, model.title, model.data_range)
