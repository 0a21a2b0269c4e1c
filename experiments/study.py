"""What a study of distillation gives: one row per solver, and their picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath
from matplotlib import pyplot as plt

from experiments import report


class Result(NamedTuple):
    """One distilled solver.

    Attributes:
      setting: what the study varies, as text.
      nfe: evaluations.
      start_db: PSNR of the solver that the search started from, on the test pairs.
      psnr_db: of the solver it found.
      low_db: lower end of the 95 % bootstrap interval of that mean.
      high_db: its upper end.
      gap_db: PSNR on the training pairs less that on the test pairs.
      forwards: calls of the field on one sample, those of its start included.
      seconds: likewise.
    """

    setting: str
    nfe: int
    start_db: float
    psnr_db: float
    low_db: float
    high_db: float
    gap_db: float
    forwards: int
    seconds: float

    def cells(self) -> list[str]:
        """As text."""
        decibels = [f"{value:.2f}" for value in self[2:7]]
        spent = [str(self.forwards), f"{self.seconds:.0f}"]
        return [self.setting, str(self.nfe), *decibels, *spent]


def plot(results: Sequence[Result], path: epath.Path, varies: str, title: str) -> None:
    """PSNR at each setting, a line per NFE; the start of each search is dotted."""
    settings = list(dict.fromkeys(result.setting for result in results))
    figure, axes = plt.subplots(figsize=(7.4, 4.4), layout="constrained")
    for index, nfe in enumerate(sorted({result.nfe for result in results})):
        line = [result for result in results if result.nfe == nfe]
        at = [settings.index(result.setting) for result in line]
        psnr = [result.psnr_db for result in line]
        below = [result.psnr_db - result.low_db for result in line]
        above = [result.high_db - result.psnr_db for result in line]
        style: dict[str, Any] = {"color": f"C{index}", "marker": "o", "markersize": 4}
        axes.errorbar(at, psnr, (below, above), label=f"{nfe} NFE", **style)
        axes.plot(at, [result.start_db for result in line], ":", **style)
    axes.plot([], [], ":", color="0.4", label="where it started")
    axes.set_xticks(range(len(settings)), settings, rotation=20 * (len(settings) > 5))
    axes.set_xlabel(varies)
    axes.set_ylabel("PSNR on test pairs (dB)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    report.save(figure, path)
