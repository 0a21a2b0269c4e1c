"""A figure that is drawn without a display, and written to any kind of path."""

from __future__ import annotations

import io

import matplotlib
from etils import epath

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from bns_jax import files, parallel


def save(figure: plt.Figure, path: epath.Path) -> None:
    """Writes a picture, on process 0, and closes it; makes its folder."""
    # Through memory, so that paths of any scheme work.
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    if parallel.is_main():
        files.write(path, buffer.getvalue())
