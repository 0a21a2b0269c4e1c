"""What solvers reached, as rows, and as a table for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bns_jax.tables import aligned
from experiments.report import display


class Row(NamedTuple):
    """One solver at one number of evaluations.

    Attributes:
      solver: its name.
      nfe: evaluations of the guided field.
      psnr_db: mean over the test pairs, in dB.
      low_db: the lower end of its 95 % bootstrap interval.
      high_db: the upper end.
      gain_db: over the best other solver at this NFE, in dB; of BNS alone.
      overfit_db: how much higher it is on the training pairs, in dB; of BNS alone.
      forwards: calls of the field on one sample that it took to distil it.
      seconds: likewise.
    """

    solver: str
    nfe: int
    psnr_db: float
    low_db: float
    high_db: float
    gain_db: float | None = None
    overfit_db: float | None = None
    forwards: int = 0
    seconds: float = 0.0

    def cells(self) -> list[str]:
        """As text; what it lacks is empty."""
        return [
            self.solver,
            str(self.nfe),
            f"{self.psnr_db:.2f}",
            f"{self.low_db:.2f}",
            f"{self.high_db:.2f}",
            *(
                "" if v is None else f"{v:+.2f}"
                for v in (self.gain_db, self.overfit_db)
            ),
            str(self.forwards),
            f"{self.seconds:.1f}",
        ]


def table(rows: Sequence[Row], data_range: float = 2.0) -> str:
    """PSNR in dB: a line per solver, the best last, and a column per NFE.

    Args:
      rows: what was measured.
      data_range: of the PSNR; the line above the table says it.
    """
    nfes = sorted({row.nfe for row in rows})
    lines = [["solver", *(f"NFE {nfe}" for nfe in nfes)], [], *_by_solver(rows, nfes)]
    bespoke = {row.nfe: row for row in rows if row.gain_db is not None}
    if bespoke:
        lines += [[], *_costs([bespoke[nfe] for nfe in nfes])]
    return f"{display.psnr_of(data_range)}, dB\n\n{aligned(lines)}"


def _by_solver(rows: Sequence[Row], nfes: Sequence[int]) -> list[list[str]]:
    """A line each, in the order of what they reach at the largest NFE."""
    psnr = {(row.solver, row.nfe): row.psnr_db for row in rows}

    def end(name: str) -> float:
        db = psnr.get((name, nfes[-1]), np.nan)
        return -np.inf if np.isnan(db) else db

    names = sorted(dict.fromkeys(row.solver for row in rows), key=end)
    return [
        [name, *(_decibels(psnr.get((name, nfe))) for nfe in nfes)] for name in names
    ]


def _decibels(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _costs(rows: Sequence[Row]) -> list[list[str]]:
    """The lines about BNS alone, one of its rows a column."""
    cells: dict[str, Callable[[Row], str]] = {
        "gain over the best other": lambda row: f"{row.gain_db:+.2f}",
        "from (95 % interval)": lambda row: f"{row.low_db:.2f}",
        "to": lambda row: f"{row.high_db:.2f}",
        "training minus test": lambda row: f"{row.overfit_db:+.2f}",
        "forwards to distil it": lambda row: f"{row.forwards:,}",
        "seconds": lambda row: f"{row.seconds:.0f}",
    }
    return [[label, *map(cell, rows)] for label, cell in cells.items()]
