"""What a study of distillation gives: one row per solver, and their picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from etils import epath

from experiments.report import display
from experiments.report.figure import plt, save


class StudyResult(NamedTuple):
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


def plot(
    results: Sequence[StudyResult],
    path: epath.Path,
    varies: str,
    title: str,
    by_nfe: bool = False,
    data_range: float = 2.0,
) -> None:
    """PSNR of what was found, and dotted or dashed where its search started.

    Numbers make an axis, with a line per NFE; what is no number, or of a single NFE or
    setting, makes bars.

    Args:
      results: of one study.
      path: of the picture.
      varies: what the study varies.
      title: above it.
      by_nfe: whether NFE is the axis, and each setting a line.
      data_range: of the PSNR.
    """
    figure, axes = plt.subplots(figsize=(7.8, 4.4), layout="constrained")
    if by_nfe and len({result.nfe for result in results}) > 1:
        _draw_by_nfe(axes, results)
        axes.set_xlabel("NFE (evaluations of the velocity field)")
    else:
        _draw_by_setting(axes, results)
        axes.set_xlabel(varies)
    axes.set_ylabel(f"{display.psnr_of(data_range)}, test pairs (dB)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)


def _grouped(
    results: Sequence[StudyResult], key: Callable[[StudyResult], Any]
) -> dict[Any, list[StudyResult]]:
    """The results by a key, in the order in which it first comes."""
    groups: dict[Any, list[StudyResult]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


def _draw_by_nfe(axes: plt.Axes, results: Sequence[StudyResult]) -> None:
    """A line per setting."""
    lines = list(_grouped(results, lambda result: result.setting).items())
    _draw_lines(axes, lines, [[result.nfe for result in line] for _, line in lines])
    axes.set_xticks(sorted({result.nfe for result in results}))


def _draw_by_setting(axes: plt.Axes, results: Sequence[StudyResult]) -> None:
    """A line, or a color of bars, per NFE."""
    settings = list(_grouped(results, lambda result: result.setting))
    by_nfe = sorted(_grouped(results, lambda result: result.nfe).items())
    places = [[settings.index(result.setting) for result in of] for _, of in by_nfe]
    are_numbers = all(map(_is_number, settings)) and len(settings) > 1
    draw = _draw_lines if are_numbers and len(by_nfe) > 1 else _draw_bars
    draw(axes, [(f"{nfe} NFE", of) for nfe, of in by_nfe], places)
    axes.set_xticks(range(len(settings)), map(display.name, settings))
    if len(settings) > 5:
        axes.tick_params("x", rotation=20)
        plt.setp(axes.get_xticklabels(), ha="right", rotation_mode="anchor")


_SAME = 0.05
"""Starts that differ by less, in dB, are drawn as one."""

_Lines: TypeAlias = Sequence[tuple[str, Sequence[StudyResult]]]
"""(label, results) of each."""


def _draw_lines(axes: plt.Axes, lines: _Lines, places: Sequence[Sequence[int]]) -> None:
    """With intervals, and the starts dotted; in one line if they are all the same."""
    starts = [[r.start_db for r in line] for _, line in lines]
    common = len(lines) > 1 and all(
        len(start) == len(starts[0])
        and np.allclose(start, starts[0], rtol=0, atol=_SAME)
        for start in starts
    )
    style: dict[str, Any] = {"marker": "o", "markersize": 4}
    for index, ((label, line), at) in enumerate(zip(lines, places, strict=True)):
        color = f"C{index}"
        psnr = [r.psnr_db for r in line]
        axes.errorbar(at, psnr, _interval(line), label=label, color=color, **style)
        if not common:
            axes.plot(at, starts[index], ":", color=color, **style)
    if common:
        label = "the start of all"
        axes.plot(places[0], starts[0], ":", color="0.4", label=label, **style)
    else:
        axes.plot([], [], ":", color="0.4", label="where it started")


def _draw_bars(axes: plt.Axes, lines: _Lines, places: Sequence[Sequence[int]]) -> None:
    """Side by side, with intervals; dashed is where the search started."""
    width = 0.8 / len(lines)
    for index, ((label, line), at) in enumerate(zip(lines, places, strict=True)):
        centers = np.asarray(at) + (index - (len(lines) - 1) / 2) * width
        psnr = [r.psnr_db for r in line]
        axes.bar(
            centers,
            psnr,
            0.9 * width,
            yerr=_interval(line),
            label=label,
            color=f"C{index}",
            ecolor="0.4",
        )
        starts = [r.start_db for r in line]
        ends = centers - 0.45 * width, centers + 0.45 * width
        axes.hlines(starts, *ends, color="black", linestyle="--", linewidth=1.2)
    axes.plot([], [], "--", color="black", linewidth=1.2, label="where it started")


def _interval(line: Sequence[StudyResult]) -> np.ndarray:
    """How far the 95 % interval reaches below and above, (2, N)."""
    return np.array(
        [(r.psnr_db - r.low_db, r.high_db - r.psnr_db) for r in line]
    ).T.clip(0)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
