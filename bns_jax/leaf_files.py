"""Arrays of many samples in a folder: a plain .npy file for each, filled row by row.

Each file has its whole size from the start, so that what fills the disk does so before
long work, and a part of it can be written, read and mapped into memory by itself.
"""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from bns_jax import files

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Leaf(NamedTuple):
    """One array.

    Attributes:
      name: of its file.
      axis: of the samples.
      dtype: its name, as `np.dtype` takes it.
      shape: with all samples.
    """

    name: str
    axis: int
    dtype: str
    shape: tuple[int, ...]


def dtype_name(dtype: np.dtype) -> str:
    """A name that gives the dtype back; those of `ml_dtypes` have no code of NumPy's.

    Args:
      dtype: of NumPy or `ml_dtypes`.

    Returns:
      The name, for `np.dtype`.

    Raises:
      ValueError: if it holds Python objects, which no file takes.
    """
    if dtype.hasobject:
        raise ValueError(f"expected an array of numbers, got one of {dtype}")
    return dtype.str if np.dtype(dtype.str) == dtype else dtype.name


class LeafFiles:
    """The files of some leaves in one local folder."""

    def __init__(self, folder: Path, leaves: Sequence[Leaf]):
        """Names the files, which `make` makes.

        Args:
          folder: of the files.
          leaves: one for each file.
        """
        self._folder, self._leaves = folder, leaves

    def make(self) -> None:
        """Gives every file its header and size; one that has them is left alone.

        Raises:
          OSError: if one cannot be written, as on a full disk; names it.
        """
        for leaf in self._leaves:
            path, header = self._folder / leaf.name, _header(leaf)
            size = len(header) + _bytes(leaf)
            if path.exists() and path.stat().st_size == size:
                with open(path, "rb") as file:
                    if file.read(len(header)) == header:
                        continue
            try:
                with open(path, "r+b" if path.exists() else "w+b") as file:
                    file.write(header)
                    file.flush()
                    file.truncate(size)
                    _reserve(file, size)
            except OSError as error:
                raise files.named(error, path) from error

    def write(self, first: int, rows: Sequence[np.ndarray]) -> None:
        """Writes the samples from `first` on, of every leaf.

        Args:
          first: number of the first sample.
          rows: one array for each leaf, of as many samples.

        Raises:
          OSError: if they cannot be written; names the file.
        """
        for leaf, array in zip(self._leaves, rows, strict=True):
            path, count = self._folder / leaf.name, array.shape[leaf.axis]
            data = _raw(array).data
            try:
                with open(path, "r+b") as file:
                    for start, block in _blocks(leaf, first, count):
                        file.seek(start)
                        file.write(data[:block])
                        data = data[block:]
            except OSError as error:
                raise files.named(error, path) from error

    def read(self, first: int, count: int) -> list[np.ndarray]:
        """Reads the samples from `first` on, of every leaf.

        Args:
          first: number of the first sample.
          count: how many.

        Returns:
          One array for each leaf.

        Raises:
          ValueError: if a file is too short.
          OSError: if one cannot be read.
        """
        return [self._read(leaf, first, count) for leaf in self._leaves]

    def _read(self, leaf: Leaf, first: int, count: int) -> np.ndarray:
        path, shape = self._folder / leaf.name, list(leaf.shape)
        shape[leaf.axis] = count
        parts = []
        with open(path, "rb") as file:
            for start, block in _blocks(leaf, first, count):
                file.seek(start)
                parts.append(file.read(block))
                if len(parts[-1]) != block:
                    raise ValueError(f"{path} ends early")
        flat = np.frombuffer(bytearray(b"".join(parts)), np.uint8)
        return flat.view(np.dtype(leaf.dtype)).reshape(shape)

    def map(self) -> list[np.ndarray]:
        """All samples of every leaf, mapped into memory.

        They are read where they are used. To write into them changes no file.

        Returns:
          One array for each leaf, of all samples.
        """
        return [self._map(leaf) for leaf in self._leaves]

    def _map(self, leaf: Leaf) -> np.ndarray:
        dtype = np.dtype(leaf.dtype)
        if not _bytes(leaf):
            return np.empty(leaf.shape, dtype)
        path, offset = self._folder / leaf.name, len(_header(leaf))
        return np.asarray(np.memmap(path, dtype, "c", offset, leaf.shape))


def checksum(parts: Sequence[np.ndarray | bytes]) -> str:
    """SHA-256 of some arrays, one after the other, in hexadecimal digits.

    Args:
      parts: arrays or bytes.

    Returns:
      64 digits.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else _raw(part).data)
    return digest.hexdigest()


def _raw(array: np.ndarray) -> np.ndarray:
    """The bytes of an array, in C order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _header(leaf: Leaf) -> bytes:
    """The header of a .npy file, version 1.0."""
    described: dict[str, Any] = {
        "descr": np.dtype(leaf.dtype).str,
        "fortran_order": False,
        "shape": leaf.shape,
    }
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def _bytes(leaf: Leaf) -> int:
    return math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize


def _blocks(leaf: Leaf, first: int, count: int) -> Iterator[tuple[int, int]]:
    """Where some samples lie in the file: the start and length of each run of bytes."""
    samples, offset = leaf.shape[leaf.axis], len(_header(leaf))
    inner = math.prod(leaf.shape[leaf.axis + 1 :]) * np.dtype(leaf.dtype).itemsize
    for outer in range(math.prod(leaf.shape[: leaf.axis])):
        yield offset + (outer * samples + first) * inner, count * inner


def _reserve(file: IO[bytes], size: int) -> None:
    """Takes the place on the disk, where the file system can."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise
