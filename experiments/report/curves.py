"""PSNR against NFE as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from etils import epath

from experiments.report import display
from experiments.report.display import BESPOKE
from experiments.report.figure import plt, save
from experiments.report.table import Row

_NAMED_LINES = 12
_NAMED_BARS = 24


def plot_psnr(
    rows: Sequence[Row], path: epath.Path, title: str, data_range: float = 2.0
) -> None:
    """PSNR against NFE, a line per solver; at a single NFE a bar per solver.

    BNS and the baselines that people know are named whatever they reach, the best
    others until there are enough; the rest is grey, of bars left out.

    Args:
      rows: what was measured.
      path: of the picture.
      title: above it.
      data_range: of the PSNR.
    """
    draw = _draw_curves if len({row.nfe for row in rows}) > 1 else _draw_bars
    figure = draw(rows, f"{display.psnr_of(data_range)}, test pairs (dB)")
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def _draw_curves(rows: Sequence[Row], quantity: str) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(8.4, 4.8), layout="constrained")
    lines = _lines(rows)
    named = _named(lines, _NAMED_LINES)
    styles = _styles([lines[points] for points in named])
    for points, style in zip(named, styles, strict=True):
        label = display.names(lines[points])
        axes.plot(*zip(*points, strict=True), label=label, **style)
    _draw_rest(axes, {k: names for k, names in lines.items() if k not in named})
    _limit(axes, [db for points in named for _, db in points])
    axes.set_xlabel("NFE (evaluations of the velocity field)")
    axes.set_ylabel(quantity)
    axes.set_xticks(sorted({row.nfe for row in rows}))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _styles(lines: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """How each line is drawn, given the solvers on it."""
    familiar, others = iter("s^Dv"), iter(range(_NAMED_LINES))

    def style(solvers: Sequence[str]) -> dict[str, Any]:
        if BESPOKE in solvers:
            return _BESPOKE_LINE
        if set(solvers) & set(display.FAMILIAR):
            return _FAMILIAR_LINE | {"marker": next(familiar)}
        return _LINE | {"color": f"C{next(others) % 10}"}

    return list(map(style, lines))


def _draw_rest(axes: plt.Axes, lines: dict[_Points, list[str]]) -> None:
    """In grey, with one label."""
    for points in lines:
        axes.plot(*zip(*points, strict=True), **_GREY_LINE)
    if lines:
        count = sum(map(len, lines.values()))
        axes.plot([], [], label=_count(count), **_GREY_LINE)


def _draw_bars(rows: Sequence[Row], quantity: str) -> plt.Figure:
    """The best on top, each with the interval of its mean."""
    lines = _lines(rows)
    named = _named(lines, _NAMED_BARS)
    rest = sum(map(len, lines.values())) - sum(len(lines[points]) for points in named)
    shown = [next(r for r in rows if r.solver == lines[points][0]) for points in named]
    height = 1.3 + 0.24 * len(shown)
    figure, axes = plt.subplots(figsize=(8.0, height), layout="constrained")
    for place, (points, row) in enumerate(zip(named, shown, strict=True)):
        color = "C0" if set(lines[points]) & set(display.FAMILIAR) else "0.7"
        color = "black" if BESPOKE in lines[points] else color
        # One that blew up has no length, and its number stands at 0.
        low, db, high = np.nan_to_num((row.low_db, row.psnr_db, row.high_db), posinf=0)
        interval = [[max(0.0, db - low)], [max(0.0, high - db)]]
        axes.barh(place, max(0.0, db), xerr=interval, color=color, ecolor="0.4")
        offset: Any = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        at = (max(0.0, db, high), place)
        axes.annotate(f"{row.psnr_db:.2f}", at, fontsize=8, **offset)
    labels = [display.names(lines[points]) for points in named]
    axes.set_yticks(range(len(named)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.02)
    axes.set_xlim(left=0.0)
    left_out = f"\n({_count(rest)} not shown)" if rest else ""
    axes.set_xlabel(f"{quantity}, {rows[0].nfe} NFE{left_out}")
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)
    return figure


_LINE: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1.2, "zorder": 2}
_FAMILIAR_LINE: dict[str, Any] = {
    "color": "0.25",
    "linestyle": "--",
    "markersize": 5,
    "linewidth": 1.4,
    "zorder": 3,
}
_GREY_LINE: dict[str, Any] = {"color": "0.8", "linewidth": 0.8, "zorder": 1}
_BESPOKE_LINE: dict[str, Any] = {
    "color": "black",
    "marker": "o",
    "markersize": 7,
    "linewidth": 3.0,
    "zorder": 4,
}

_Points: TypeAlias = tuple[tuple[int, float], ...]


def _lines(rows: Sequence[Row]) -> dict[_Points, list[str]]:
    """The lines of the plot with the solvers on them, the highest end first.

    Solvers that agree share one: DDIM on the cond-OT path is Euler's method.
    """
    lines: dict[_Points, list[str]] = {}
    for name in dict.fromkeys(row.solver for row in rows):
        points = [(r.nfe, round(r.psnr_db, 3)) for r in rows if r.solver == name]
        lines.setdefault(tuple(points), []).append(name)

    def end(points: _Points) -> tuple[int, float]:
        nfe, db = points[-1]
        return nfe, -np.inf if np.isnan(db) else db

    return {points: lines[points] for points in sorted(lines, key=end, reverse=True)}


def _named(lines: dict[_Points, list[str]], count: int) -> list[_Points]:
    """The lines with a name, in their order: the known ones, and the best others."""
    known = {BESPOKE, *display.FAMILIAR}
    always = [points for points, names in lines.items() if known & set(names)]
    others = [points for points in lines if points not in always]
    chosen = always + others[: max(0, count - len(always))]
    return [points for points in lines if points in chosen]


def _limit(axes: plt.Axes, values: Sequence[float]) -> None:
    """Fits the axis to these values, so that what blew up does not flatten them."""
    finite = [value for value in values if np.isfinite(value)]
    if finite:
        margin = 0.06 * max(max(finite) - min(finite), 1.0)
        axes.set_ylim(min(finite) - margin, max(finite) + margin)


def _count(solvers: int) -> str:
    return f"{solvers} more solver{'s' if solvers > 1 else ''}"
