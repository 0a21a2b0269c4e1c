"""Reference statistics as the .npz files of guided-diffusion and EDM hold them.

EDM's have the entries `mu` and `sigma`; guided-diffusion's beside them `mu_s` and
`sigma_s`, the same of spatial features, and often images.
"""

from __future__ import annotations

import io
import zipfile
from typing import IO

import numpy as np
from etils import epath

from bns_jax.metrics.frechet import Gaussian, check

_POOLED = ("mu", "sigma")
_SPATIAL = ("mu_s", "sigma_s")


def read_statistics(path: epath.PathLike, spatial: bool = False) -> Gaussian:
    """Reads the statistics of a reference set; runs no code that the file holds.

    Args:
      path: of the .npz file.
      spatial: whether to read those of spatial features, for guided-diffusion's sFID.

    Returns:
      A mean (d,) and a covariance (d, d), float64.

    Raises:
      ValueError: if the file is missing, is no .npz file or damaged, lacks an entry,
        or what it holds is no mean and covariance.
    """
    try:
        file = epath.Path(path).open("rb")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"no statistics file at {path}") from error
    with file:
        try:
            return check(_entries(file, _SPATIAL if spatial else _POOLED))
        # A damaged archive fails in any way at all.
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise ValueError(
                f"{path} holds no reference statistics: {reason}"
            ) from error


def write_statistics(
    path: epath.PathLike, pooled: Gaussian, spatial: Gaussian | None = None
) -> None:
    """Writes statistics that EDM reads, and guided-diffusion where `spatial` is given.

    Args:
      path: the file; .npz by custom.
      pooled: of the features that FID compares.
      spatial: of the spatial features that sFID compares.

    Raises:
      ValueError: if one is no mean (d,) and covariance (d, d).
    """
    entries = dict(zip(_POOLED, check(pooled), strict=True))
    if spatial is not None:
        entries |= dict(zip(_SPATIAL, check(spatial), strict=True))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **entries)
    epath.Path(path).write_bytes(buffer.getvalue())


def _entries(file: IO[bytes], names: tuple[str, str]) -> Gaussian:
    """Two entries of an archive; the others, such as images, stay unread."""
    with zipfile.ZipFile(file) as archive:
        found = [name.removesuffix(".npy") for name in archive.namelist()]
        if not set(names) <= set(found):
            raise ValueError(
                f"expected the entries {', '.join(names)}, got {', '.join(found)}"
            )
        return Gaussian(*(_entry(archive, name) for name in names))


def _entry(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)
