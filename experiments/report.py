"""What a person sees at the end: a table, a plot of PSNR, a sheet of samples."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import matplotlib
import numpy as np
from etils import epath

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from bns_jax import files, parallel
from bns_jax.tables import aligned
from experiments import display

BESPOKE = display.BESPOKE
_ERROR_GAIN = 8.0
_NAMED_LINES = 12
_NAMED_BARS = 24


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
    psnr = {(row.solver, row.nfe): row.psnr_db for row in rows}
    names = sorted(
        dict.fromkeys(row.solver for row in rows),
        key=lambda name: max((nfe, psnr.get((name, nfe), -np.inf)) for nfe in nfes),
    )
    lines = [["solver", *(f"NFE {nfe}" for nfe in nfes)], []]
    for name in names:
        values = (psnr.get((name, nfe)) for nfe in nfes)
        lines.append([name, *("-" if v is None else f"{v:.2f}" for v in values)])
    bespoke = {row.nfe: row for row in rows if row.gain_db is not None}
    if bespoke:
        spent = [bespoke[nfe] for nfe in nfes]
        lines += [
            [],
            ["gain over the best other", *(f"{row.gain_db:+.2f}" for row in spent)],
            ["from (95 % interval)", *(f"{row.low_db:.2f}" for row in spent)],
            ["to", *(f"{row.high_db:.2f}" for row in spent)],
            [
                "training minus validation",
                *(f"{row.overfit_db:+.2f}" for row in spent),
            ],
            ["forwards to distil it", *(f"{row.forwards:,}" for row in spent)],
            ["seconds", *(f"{row.seconds:.0f}" for row in spent)],
        ]
    return f"{display.psnr_of(data_range)}, dB\n\n{aligned(lines)}"


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
    familiar, others = iter("s^Dv"), iter(range(_NAMED_LINES))
    for points in named:
        solvers = lines[points]
        if BESPOKE in solvers:
            style = _BESPOKE_LINE
        elif set(solvers) & set(display.FAMILIAR):
            style = _FAMILIAR_LINE | {"marker": next(familiar)}
        else:
            style = _LINE | {"color": f"C{next(others) % 10}"}
        label = display.names(solvers)
        axes.plot(*zip(*points, strict=True), label=label, **style)
    rest = [points for points in lines if points not in named]
    for points in rest:
        axes.plot(*zip(*points, strict=True), **_GREY_LINE)
    if rest:
        count = sum(len(lines[points]) for points in rest)
        axes.plot([], [], label=_count(count), **_GREY_LINE)
    _limit(axes, [db for points in named for _, db in points])
    axes.set_xlabel("NFE (evaluations of the velocity field)")
    axes.set_ylabel(quantity)
    axes.set_xticks(sorted({row.nfe for row in rows}))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


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


def plot_samples(
    images: dict[str, np.ndarray],
    path: epath.Path,
    title: str,
    truth: str,
    data_range: float = 2.0,
) -> None:
    """One row per solver, the same noise in each column, and its error below.

    Args:
      images: label -> (count, height, width, channels), around 0; in color from three
        channels on. Errors of color are root mean squares over the channels.
      path: of the picture.
      title: above it.
      truth: the label of the ground truth, which errors are taken against.
      data_range: from the darkest value to the brightest.
    """
    half, count = data_range / 2, len(images[truth])
    rows = len(images) * 2 - 1
    figure, grid = plt.subplots(
        rows, 1, figsize=(0.62 * count + 3.2, 0.8 * rows + 0.5), layout="constrained"
    )
    free, errors = iter(np.ravel(grid)), []
    for label, pixels in images.items():
        axes = next(free)
        strip = _strip(pixels / half)
        axes.imshow(np.clip(0.5 + 0.5 * strip, 0.0, 1.0), cmap="gray", vmin=0, vmax=1)
        _bare(axes, label)
        if label != truth:
            errors.append(next(free))
            scale = _show_error(errors[-1], pixels - images[truth], half / _ERROR_GAIN)
            _bare(errors[-1], "its error")
    if errors:
        signed = images[truth].shape[-1] == 1
        figure.colorbar(
            scale,
            ax=grid,
            label="error" if signed else "error (rms over channels)",
            extend="both" if signed else "max",
            shrink=0.9,
            pad=0.01,
        )
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def _show_error(axes: plt.Axes, error: np.ndarray, limit: float) -> Any:
    """With its sign for one channel, and its size for several."""
    if error.shape[-1] == 1:
        return axes.imshow(_strip(error), cmap="RdBu", vmin=-limit, vmax=limit)
    size = np.sqrt(np.mean(error**2, axis=-1, keepdims=True))
    return axes.imshow(_strip(size), cmap="magma", vmin=0.0, vmax=limit)


def _strip(images: np.ndarray) -> np.ndarray:
    """Images side by side, each in a frame: one channel or three, of latents the first.

    Returns:
      (height, width, channels).
    """
    shown = images[..., : 3 if images.shape[-1] >= 3 else 1]
    framed = np.pad(shown, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.concatenate(list(framed), axis=1)


def _bare(axes: plt.Axes, label: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    for side in axes.spines.values():
        side.set_visible(False)


def save(figure: plt.Figure, path: epath.Path) -> None:
    """Writes a picture, on process 0, and closes it; makes its folder."""
    # Through memory, so that paths of any scheme work.
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    if parallel.is_main():
        files.write(path, buffer.getvalue())
