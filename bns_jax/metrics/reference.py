"""Reference statistics in the files that evaluators publish.

EDM's .npz files have the entries `mu` and `sigma`; guided-diffusion's beside them
`mu_s` and `sigma_s`, the same of spatial features, and often images. EDM2's are pickles
of such dictionaries, one per metric. Sets of samples are one array, `arr_0`.
"""

from __future__ import annotations

import io
import itertools
import math
import zipfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from etils import epath

from bns_jax import files
from bns_jax.metrics.frechet import Gaussian, check
from bns_jax.metrics.images import Range, as_bytes
from bns_jax.metrics.streaming import Features, statistics
from bns_jax.unpickle import Unpickler, as_array

_POOLED = ("mu", "sigma")
_SPATIAL = ("mu_s", "sigma_s")
_SAMPLES = "arr_0"


def read_statistics(
    path: epath.PathLike,
    spatial: bool = False,
    *,
    features: Features | None = None,
    batch: int = 64,
    value_range: Range | None = None,
) -> Gaussian:
    """Reads the statistics of a reference set; runs no code that the file holds.

    Args:
      path: of a .npz file with `mu` and `sigma`; a pickle of a dictionary of these, or
        of one with such a dictionary under "fid"; or a .npz or .npy file of one array,
        whose statistics are computed: features (N, d), or images.
      spatial: whether to read those of spatial features, for guided-diffusion's sFID.
      features: of images, where the file holds such; see `image_statistics`.
      batch: how many images they see at once.
      value_range: of images of floating-point numbers, see `to_bytes`.

    Returns:
      A mean (d,) and a covariance (d, d), float64.

    Raises:
      ValueError: if the file is missing, is no such file or damaged, lacks an entry, or
        what it holds is no mean and covariance.
    """
    names = _SPATIAL if spatial else _POOLED
    with files.opened(path, "statistics") as file:
        rows = _guarded(_contents(file, names, batch), path)
        first = next(rows)
        if isinstance(first, Gaussian):
            return first
        rows = itertools.chain([first], rows)
        if first.ndim == 2:
            return statistics(rows, lambda found: found, batch)
        if features is None:
            raise ValueError(
                f"{path} holds no reference statistics but images of shape "
                f"{first.shape[1:]}: expected the features that a network sees in them"
            )
        return statistics(as_bytes(rows, batch, value_range), features, batch)


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
    files.write(path, buffer.getvalue())


def _guarded(contents: Iterator[Any], path: epath.PathLike) -> Iterator[Any]:
    """The same; a damaged file fails in any way at all."""
    try:
        yield from contents
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} holds no reference statistics: {reason}") from error


def _contents(file: IO[bytes], names: tuple[str, str], batch: int) -> Iterator[Any]:
    """A Gaussian, or the rows of an array, `batch` at a time."""
    begin = file.read(512)
    file.seek(0)
    if begin[:2] == b"PK":
        yield from _archive(file, names, batch)
    elif begin[:6] == np.lib.format.MAGIC_PREFIX:
        if names == _SPATIAL:
            _lacks(names, ["one array"])
        yield from _rows(io.BytesIO(file.read()), batch)
    elif begin[:1] == b"\x80":
        yield _pickled(file.read(), names)
    else:
        told = files.not_data(begin)
        raise ValueError(told or "expected a .npz, .npy or .pkl file, got another")


def _archive(file: IO[bytes], names: tuple[str, str], batch: int) -> Iterator[Any]:
    """Two entries of an archive, or all of one; the others stay unread."""
    with zipfile.ZipFile(file) as archive:
        found = [name.removesuffix(".npy") for name in archive.namelist()]
        if set(names) <= set(found):
            yield check(Gaussian(*(_entry(archive, name) for name in names)))
            return
        samples = _SAMPLES if _SAMPLES in found else found[0] if found else ""
        if names == _SPATIAL or (samples != _SAMPLES and len(found) != 1):
            _lacks(names, found)
        if samples in names:
            _lacks(names, found)
        with archive.open(f"{samples}.npy") as entry:
            yield from _rows(entry, batch)


def _lacks(names: tuple[str, str], found: list[str]) -> None:
    raise ValueError(
        f"expected the entries {', '.join(names)}, got {', '.join(found) or 'none'}"
    )


def _entry(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _rows(file: IO[bytes], batch: int) -> Iterator[np.ndarray]:
    """An array of features or images, never held all at once."""
    version = np.lib.format.read_magic(file)
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in headers:
        raise ValueError(f"an array of version {version}")
    shape, is_fortran, dtype = headers[version](file)
    if len(shape) not in (2, 4) or is_fortran or dtype.kind not in "fu" or 0 in shape:
        raise ValueError(
            "expected an array of features (N, d) or images (N, height, width, "
            f"channels), by rows, got {dtype} {shape}"
        )
    size = math.prod(shape[1:]) * dtype.itemsize
    for start in range(0, shape[0], batch):
        count = min(batch, shape[0] - start)
        data = file.read(count * size)
        if len(data) != count * size:
            raise EOFError(f"the array ends before row {start + count} of {shape[0]}")
        yield np.frombuffer(data, dtype).reshape(count, *shape[1:])


def _pickled(data: bytes, names: tuple[str, str]) -> Gaussian:
    """The statistics in a pickled dictionary."""
    content = Unpickler(io.BytesIO(data)).load()
    if not isinstance(content, dict):
        raise ValueError(f"a pickle of a {type(content).__name__}, not of statistics")
    found = content.get("fid", content)
    found = found if isinstance(found, dict) else content
    mean, covariance = (as_array(found.get(name)) for name in names)
    if mean is None or covariance is None:
        raise ValueError(
            f"expected the entries {', '.join(names)}, got "
            f"{', '.join(map(str, found)) or 'none'}"
        )
    return check(Gaussian(mean, covariance))
