"""Figure 3 of the paper as a picture, with each solver in its region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath
from matplotlib.patches import FancyBboxPatch

from experiments.report.figure import plt, save
from experiments.taxonomy.specimens import Specimen


class _Box(NamedTuple):
    """Where a region is drawn, on a page 100 wide, and how.

    Attributes:
      left: edge.
      bottom: edge.
      width: of the box.
      height: of the box.
      columns: of names.
      room: height at the top for the title and the names outside smaller regions.
      colour: of the box.
    """

    left: float
    bottom: float
    width: float
    height: float
    columns: int
    room: float
    colour: str


_BOXES = {
    "Non-Stationary": _Box(0, 0, 100, 70, 5, 10, "#eef0f2"),
    "Scale-Time RK": _Box(2, 2, 37, 58, 1, 9, "#d9e6f2"),
    "Scale-Time multistep": _Box(41, 2, 57, 58, 1, 9, "#e6def1"),
    "RK": _Box(4, 34, 33, 17, 2, 17, "#fcfdfe"),
    "Exponential RK": _Box(4, 4, 33, 28, 1, 28, "#fcfdfe"),
    "Multistep": _Box(43, 34, 53, 17, 1, 17, "#fcfbfe"),
    "Exponential multistep": _Box(43, 4, 53, 28, 3, 28, "#fcfbfe"),
}
_TITLE = 4.5

_TESTS = {
    "... RK": "carries one vector from step to step",
    "... multistep": "carries several, but fewer than $n$ evaluations allow",
    "RK, Multistep": "exact on straight lines, $x = c_0 + c_1 t$",
    "Exponential ...": "exact on conditional paths, "
    r"$x = \alpha_t c_0 + \sigma_t c_1$",
    "Scale-Time ...": "exact on the straight lines of another path's "
    r"$\bar{x}_r = s_r x_{t_r}$",
    "Non-Stationary": "three arrays that one sampler runs",
}

_COLOURS: dict[tuple[str, ...], tuple[str, str]] = {
    ("time",): ("#1a7a3a", "in time: a classical method"),
    ("sigma/alpha",): (
        "#b8500c",
        r"in $\sigma/\alpha$, and so in log-SNR: classical under VE",
    ),
    ("log-SNR",): ("#2455a8", "in log-SNR"),
    (): ("#4a4a4a", "in none of these, or not laid on their grids"),
}
"""The first clock that a solver is steady in -> its colour, and what that says."""


def draw(specimens: Sequence[Specimen], path: epath.Path) -> None:
    """Draws the regions, the names in them, and below what is tested."""
    figure = plt.figure(figsize=(10.2, 9.3))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(-1.5, 101.5), ylim=(-20, 75))
    axes.set_axis_off()
    title = "Solvers of diffusion and flow models, placed by what their numbers show"
    axes.text(50, 72.5, title, fontsize=15, ha="center", va="center")
    for region, box in _BOXES.items():
        _draw_box(axes, region, box)
        _draw_names(axes, box, [s for s in specimens if s.region == region])
    _draw_captions(axes)
    save(figure, path)


def _draw_box(axes: plt.Axes, title: str, box: _Box) -> None:
    """A rounded box with its title at the top."""
    shape = FancyBboxPatch(
        (box.left, box.bottom),
        box.width,
        box.height,
        boxstyle="round,pad=0,rounding_size=2",
        facecolor=box.colour,
        edgecolor="#66717c",
        linewidth=1.1,
    )
    axes.add_patch(shape)
    middle, top = box.left + box.width / 2, box.bottom + box.height
    style: dict[str, Any] = {"fontsize": 12.5, "fontweight": "bold", "color": "#22282e"}
    axes.text(middle, top - _TITLE / 2 - 0.4, title, ha="center", va="center", **style)


def _draw_names(axes: plt.Axes, box: _Box, specimens: Sequence[Specimen]) -> None:
    """The names in columns, read downwards, spread over the room for them."""
    columns = min(box.columns, len(specimens)) or 1
    rows = -(-len(specimens) // columns)
    top, room = box.bottom + box.height - _TITLE, box.room - _TITLE - 0.8
    for i, specimen in enumerate(specimens):
        column, row = divmod(i, rows)
        axes.text(
            box.left + box.width * (column + 0.5) / columns,
            top - room * (row + 0.5) / rows,
            specimen.name,
            fontsize=10.5,
            family="monospace",
            ha="center",
            va="center",
            color=_COLOURS[specimen.steady[:1]][0],
        )


def _draw_captions(axes: plt.Axes) -> None:
    """The test of each region, and what the colours say."""
    left, right, under_boxes, line = 1.0, 62.0, -3.2, 2.6

    def put(x: float, row: int, text: str, **style: Any) -> None:
        y = under_boxes - line * row
        axes.text(x, y, text, fontsize=9.5, va="center", **style)

    put(left, 0, "What puts a solver into a region", fontweight="bold")
    for row, (name, test) in enumerate(_TESTS.items(), start=1):
        put(left, row, name, fontweight="bold")
        put(left + 15, row, test)
    put(right, 0, "In which variable equal steps are the same step", fontweight="bold")
    for row, (colour, meaning) in enumerate(_COLOURS.values(), start=1):
        put(right, row, meaning, color=colour)
