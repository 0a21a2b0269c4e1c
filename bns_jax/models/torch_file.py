"""Files of torch.save, and pickles with torch tensors, as NumPy arrays; no torch.

There are three layouts. The present one is a zip archive: `data.pkl`, and a member per
storage. The older one is a row of pickles followed by the storages. And a plain pickle
of a network holds each storage as a file of the older kind.
"""

from __future__ import annotations

import io
import zipfile
from functools import partial
from typing import IO, Any

import numpy as np

from bns_jax.models.torch_tensors import NAMES, Storage, reference, reported
from bns_jax.unpickle import Foreign, Record, Refused, StandIn, Unpickler

_MAGIC = 0x1950A86A20F9469CFC6C


def load(file: IO[bytes]) -> Any:
    """What a file holds.

    Args:
      file: open at its beginning. Of an archive, the numbers of a tensor are read as
        `unpickle.as_array` asks for them: an optimizer's stay where they are.

    Returns:
      Plain containers, arrays, and `unpickle.Record` for tensors and for objects of
      foreign classes.

    Raises:
      ValueError: if it is damaged, or no such file; by `as_array` too.
    """
    with reported():
        if file.read(2) == b"PK":
            return _load_archive(file)
        file.seek(0)
        return _load_stream(file.read())


class _Allowance:
    """How many bytes may still be read: a file has no more than its length."""

    def __init__(self, size: int):
        self.left = size

    def take(self, size: int) -> None:
        """Uses some of it.

        Raises:
          Refused: if less is left.
        """
        if not 0 <= size <= self.left:
            raise Refused(f"announces {size} bytes where {self.left} are left")
        self.left -= size


def _load_archive(file: IO[bytes]) -> Any:
    """The zip layout."""
    archive = zipfile.ZipFile(file)
    (root,) = (
        name.removesuffix("data.pkl")
        for name in archive.namelist()
        if name.endswith("/data.pkl") or name == "data.pkl"
    )
    allowance = _Allowance(file.seek(0, io.SEEK_END))
    order = f"{root}byteorder"
    is_told = order in archive.namelist()
    if is_told and _member(archive, order, allowance) != b"little":
        raise Refused("holds big-endian numbers")
    stored: dict[str, Storage] = {}

    def storage(pid: Any) -> Any:
        if isinstance(pid[1], Foreign):
            return Record(pid[1].name)
        dtype, key, count = reference(pid)

        def load() -> np.ndarray:
            values = np.frombuffer(_member(archive, name, allowance), dtype)
            if len(values) != count:
                raise ValueError(f"storage {key} has {len(values)} of {count}")
            return values

        name = f"{root}data/{key}"
        return stored.setdefault(key, Storage(dtype, count, load))

    pickled = io.BytesIO(_member(archive, f"{root}data.pkl", allowance))
    return Unpickler(pickled, _NAMES, storage).load()


def _member(archive: zipfile.ZipFile, name: str, allowance: _Allowance) -> bytes:
    """The content of a member; as torch stores it, it is no longer than the file."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise Refused(f"holds {name} compressed")
    allowance.take(info.file_size)
    return archive.read(info)


def _load_stream(data: bytes) -> Any:
    """The older layout, or a plain pickle."""
    file = io.BytesIO(data)
    first = Unpickler(file, _NAMES).load()
    if not isinstance(first, int) or first != _MAGIC:
        return first
    for _ in ("protocol version", "system"):
        Unpickler(file, _NAMES).load()
    stored: dict[str, Storage] = {}
    numbers: dict[str, np.ndarray] = {}
    allowance = _Allowance(len(data))

    def storage(pid: Any) -> Any:
        if pid[0] == "module":
            # A class with its source code, which is left unread.
            return pid[1]
        dtype, key, count = reference(pid)
        if key not in stored:
            allowance.take(count * dtype.itemsize)
            # Filled below: the numbers follow after the pickle that speaks of them.
            numbers[key] = np.empty(count, dtype)
            stored[key] = Storage(dtype, count, partial(numbers.__getitem__, key))
        return stored[key]

    result = Unpickler(file, _NAMES, storage).load()
    keys = Unpickler(file, _NAMES).load()
    # A storage left out would keep what the memory held before.
    if not _are_names(keys) or sorted(keys) != sorted(stored):
        raise ValueError("the storages are not those that its tensors lie in")
    for key in keys:
        _fill(numbers[key], file)
    return result


def _are_names(keys: Any) -> bool:
    return isinstance(keys, list) and all(isinstance(key, str) for key in keys)


def _load_inner(data: Any) -> Any:
    """A file inside of a pickle, which holds one storage."""
    if not isinstance(data, bytes):
        raise Refused(f"holds a storage in a {type(data).__name__}")
    return _load_stream(data)


def _fill(values: np.ndarray, file: IO[bytes]) -> None:
    """Reads the numbers of one storage: how many, then all of them."""
    count = int.from_bytes(file.read(8), "little")
    data = file.read(values.nbytes)
    if count != len(values) or len(data) != values.nbytes:
        raise EOFError(f"a storage has {count} numbers, expected {len(values)}")
    values[:] = np.frombuffer(data, values.dtype)


_INNER = "torch.storage._load_from_bytes"
_NAMES = {**NAMES, _INNER: StandIn(_INNER, _load_inner)}
