"""A sheet of samples: what solvers make of the same noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from etils import epath

from experiments.report.figure import plt, save

_ERROR_GAIN = 8.0


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
