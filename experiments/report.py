"""What a person sees at the end: a table, a plot of PSNR, a sheet of samples."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from etils import epath

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from bns_jax import files, parallel
from bns_jax.tables import aligned

BESPOKE = "bns"
_ERROR_GAIN = 8.0
_COLOURED_LINES = 12


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


def table(rows: Sequence[Row]) -> str:
    """PSNR in dB: a line per solver, the best last, and a column per NFE."""
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
                "above it on training pairs",
                *(f"{row.overfit_db:+.2f}" for row in spent),
            ],
            ["forwards to distil it", *(f"{row.forwards:,}" for row in spent)],
            ["seconds", *(f"{row.seconds:.0f}" for row in spent)],
        ]
    return aligned(lines)


def plot_psnr(rows: Sequence[Row], path: epath.Path, title: str) -> None:
    """PSNR against NFE, one line per solver, BNS in front, the best one first."""
    figure, axes = plt.subplots(figsize=(7.8, 4.6), layout="constrained")
    lines = _lines(rows)
    for index, (points, names) in enumerate(lines.items()):
        style = _BESPOKE_LINE if BESPOKE in names else _line_style(index)
        if index == _COLOURED_LINES:
            rest = sum(map(len, list(lines.values())[index:]))
            style = style | {"label": f"{rest} more solvers"}
        elif index < _COLOURED_LINES and BESPOKE not in names:
            style = style | {"label": " = ".join(names)}
        axes.plot(*zip(*points, strict=True), **style)
    axes.set_xlabel("NFE (evaluations of the velocity field)")
    axes.set_ylabel("PSNR on test pairs (dB)")
    axes.set_xticks(sorted({row.nfe for row in rows}))
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)


_BESPOKE_LINE: dict[str, Any] = {
    "label": "BNS (this library)",
    "color": "black",
    "marker": "o",
    "markersize": 7,
    "linewidth": 3.0,
    "zorder": 4,
}


def _line_style(index: int) -> dict[str, Any]:
    """Ten colours, the second round of them dashed; then thin and grey."""
    if index >= _COLOURED_LINES:
        return {"color": "0.75", "linewidth": 0.8, "zorder": 1}
    return {
        "color": f"C{index % 10}",
        "linestyle": "-" if index < 10 else "--",
        "marker": "o" if index < 10 else "s",
        "markersize": 4,
        "linewidth": 1.2,
        "zorder": 2,
    }


def _lines(rows: Sequence[Row]) -> dict[tuple[tuple[int, float], ...], list[str]]:
    """The lines of the plot with the solvers on them, the highest end first.

    Solvers that agree share one: DDIM on the cond-OT path is Euler's method.
    """
    lines: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for name in dict.fromkeys(row.solver for row in rows):
        points = [(r.nfe, round(r.psnr_db, 3)) for r in rows if r.solver == name]
        lines.setdefault(tuple(points), []).append(name)
    ordered = sorted(lines, key=lambda points: points[-1], reverse=True)
    return {points: lines[points] for points in ordered}


def plot_samples(
    images: dict[str, np.ndarray], path: epath.Path, title: str, truth: str
) -> None:
    """One row per solver, the same noise in each column, and its error below.

    Args:
      images: label -> (count, height, width, channels) in [-1, 1]; in colour from
        three channels on.
      path: of the picture.
      title: above it.
      truth: the label of the ground truth, which errors are taken against.
    """
    rows: list[tuple[str, np.ndarray, str, float]] = []
    for label, pixels in images.items():
        rows.append((label, pixels, "gray", 1.0))
        if label != truth:
            error = _ERROR_GAIN * (pixels - images[truth])
            rows.append((f"its error x {_ERROR_GAIN:.0f}", error, "RdBu", 1.0))
    count = len(images[truth])
    figure, grid = plt.subplots(
        len(rows), 1, figsize=(0.62 * count + 2.2, 0.78 * len(rows) + 0.5)
    )
    for axes, (label, pixels, colours, limit) in zip(np.ravel(grid), rows, strict=True):
        strip = np.concatenate([_framed(image) for image in pixels], axis=1)
        if strip.shape[-1] == 3:
            axes.imshow(np.clip(0.5 + 0.5 * strip, 0.0, 1.0))
        else:
            axes.imshow(strip[..., 0], cmap=colours, vmin=-limit, vmax=limit)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
        for side in axes.spines.values():
            side.set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    save(figure, path)


def _framed(image: np.ndarray) -> np.ndarray:
    """An image of one or three channels, of latents the first three, in a frame."""
    shown = image[..., : 3 if image.shape[-1] >= 3 else 1]
    return np.pad(shown, ((1, 1), (1, 1), (0, 0)))


def save(figure: plt.Figure, path: epath.Path) -> None:
    """Writes a picture, on process 0, and closes it; makes its folder."""
    # Through memory, so that paths of any scheme work.
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    if parallel.is_main():
        files.write(path, buffer.getvalue())
