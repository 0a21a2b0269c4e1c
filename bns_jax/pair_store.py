"""Pairs (x_0, x(1)) of noise and true sample, on disk.

A pairs directory holds a plain .npy file for each leaf, of all samples, and a manifest,
which says by a fingerprint what they are of. The samples of one chunk are a shard; it
counts once `shard-00000.json` is there, which holds its checksum. So whenever a run
dies, no more is lost than the shard in hand.

Where a file cannot be written in part, as on gs://, and in directories of format 2, a
shard is `shard-00000.npz`. These are read into leaf files of a temporary folder.
"""

from __future__ import annotations

import io
import logging
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from bns_jax import files, parallel
from bns_jax.leaf_files import Leaf, LeafFiles, checksum, dtype_name
from bns_jax.pair_manifest import Manifest
from bns_jax.pairs import Pairs

_DAMAGED = (ValueError, KeyError, EOFError, FileNotFoundError, zipfile.BadZipFile)
_AXES = {"path": 1, "times": None}
"""That of the samples, in the fields of `Pairs`; 0 in the others."""


class PairStore:
    """The shards of one pairs directory."""

    def __init__(
        self,
        directory: epath.PathLike,
        fingerprint: Mapping[str, Any],
        like: Pairs,
        chunk: int,
    ):
        """Opens a directory, which the first `write` makes if it is missing.

        Args:
          directory: of the pairs.
          fingerprint: JSON values that say what the pairs are of.
          like: all of the pairs, or arrays in their place: the tree to read into, and
            how many samples there will be.
          chunk: samples of a shard; the last one may have less.

        Raises:
          ValueError: if the directory holds pairs of another fingerprint, in which
            case the message lists what differs, shards without a whole manifest, or the
            manifest of something else; if the fingerprint is no JSON.
          OSError: if a manifest cannot be read.
        """
        self._directory = files.place(directory, "a pairs directory")
        self._structure, self._count = jax.tree.structure(like), like.size
        numbered = jax.tree.unflatten(
            self._structure, range(len(jax.tree.leaves(like)))
        )
        self._fields = [
            name
            for name, tree in numbered._asdict().items()
            for _ in jax.tree.leaves(tree)
        ]
        self._chunk = chunk
        self._manifest = Manifest(self._directory, fingerprint)
        self._in_place = _is_local(self._directory) and not self._manifest.is_older
        self._temporary: tempfile.TemporaryDirectory | None = None
        self._files: LeafFiles | None = None
        self._is_made = False
        if self._in_place and self._manifest.leaves:
            self._files = LeafFiles(Path(self._directory), self._manifest.leaves)

    def read(self, index: int) -> Pairs | None:
        """A finished shard; None if it is missing or damaged.

        Args:
          index: of the shard, from 0.

        Returns:
          Its pairs, or None.

        Raises:
          OSError: if it is there but cannot be read, which is no damage.
        """
        try:
            shard = (self._read_rows if self._in_place else self._read_npz)(index)
        except _DAMAGED as error:
            path = self._directory / _name(index, "*")
            logging.warning("%s is damaged: %s; it is made again", path, error)
            return None
        if shard is not None and not self._in_place:
            self._put(index, shard)
        return shard

    def write(self, index: int, shard: Pairs) -> None:
        """Adds a shard; process 0 does, for all.

        Args:
          index: of the shard, from 0.
          shard: its pairs.

        Raises:
          OSError: if it cannot be written; names the file.
        """
        if parallel.is_main():
            self._manifest.keep(self._describe(shard), np.asarray(shard.times))
        if parallel.is_main() or not self._in_place:
            self._put(index, shard)
        self._opened(shard)
        if not parallel.is_main():
            return
        if self._in_place:
            entry: dict[str, Any] = {"sha256": checksum(self._rows(shard))}
        else:
            data, dtypes = _as_npz(shard)
            files.write(self._directory / _name(index, "npz"), data)
            entry = {"sha256": checksum([data]), "dtypes": dtypes}
        self._manifest.seal(_name(index, "json"), entry)

    def load(self) -> Pairs:
        """All pairs, mapped into memory, once every shard has been read or written.

        Returns:
          The pairs, arrays that are read where they are used.

        Raises:
          ValueError: if no shard was.
          OSError: if a file cannot be made or read.
        """
        if self._files is None:
            raise ValueError(f"{self._directory} holds no pairs yet")
        # Others wait, as process 0 may be writing still; a header that is damaged has
        # not mattered so far.
        parallel.on_main(self._files.make)
        pairs = self._joined(self._files.map())
        if self._temporary is not None:
            # What is mapped stays for as long as somebody holds it.
            self._temporary.cleanup()
        return pairs

    def _read_rows(self, index: int) -> Pairs | None:
        """A shard out of the leaf files."""
        seal = self._manifest.sealed(_name(index, "json"))
        if seal is None or self._files is None:
            return None
        first = index * self._chunk
        rows = self._files.read(first, min(self._chunk, self._count - first))
        _check(checksum(rows), seal["sha256"])
        return self._joined(rows)

    def _read_npz(self, index: int) -> Pairs | None:
        """A shard that is a file of its own."""
        name = _name(index, "npz")
        entry = self._manifest.sealed(_name(index, "json"))
        entry = entry or self._manifest.older.get(name)
        if entry is None:
            return None
        data = (self._directory / name).read_bytes()
        _check(checksum([data]), entry["sha256"])
        return jax.tree.unflatten(self._structure, _from_npz(data, entry["dtypes"]))

    def _put(self, index: int, shard: Pairs) -> None:
        """Writes a shard into the leaf files."""
        opened = self._opened(shard)
        if not self._is_made:
            opened.make()
            self._is_made = True
        opened.write(index * self._chunk, self._rows(shard))

    def _opened(self, shard: Pairs) -> LeafFiles:
        """The leaf files, of which one shard knows the shapes."""
        self._manifest.times = np.asarray(shard.times)
        if self._files is None:
            folder = Path(self._directory)
            if not self._in_place:
                self._temporary = tempfile.TemporaryDirectory()
                folder = Path(self._temporary.name)
            self._files = LeafFiles(folder, self._describe(shard))
        return self._files

    def _describe(self, shard: Pairs) -> list[Leaf]:
        """The leaves that have samples, as they are when they have all of them."""
        described = []
        for i, (field, leaf) in enumerate(
            zip(self._fields, jax.tree.leaves(shard), strict=True)
        ):
            axis = _AXES.get(field, 0)
            if axis is not None:
                shape = (*leaf.shape[:axis], self._count, *leaf.shape[axis + 1 :])
                name = f"{i:03d}-{field}.npy"
                described.append(Leaf(name, axis, dtype_name(leaf.dtype), shape))
        return described

    def _rows(self, shard: Pairs) -> list[np.ndarray]:
        """The leaves that have samples."""
        return [
            np.asarray(leaf)
            for field, leaf in zip(self._fields, jax.tree.leaves(shard), strict=True)
            if _AXES.get(field, 0) is not None
        ]

    def _joined(self, rows: list[np.ndarray]) -> Pairs:
        """Pairs again, of the leaves that have samples."""
        left = iter(rows)
        return jax.tree.unflatten(
            self._structure,
            [
                self._manifest.times if _AXES.get(field, 0) is None else next(left)
                for field in self._fields
            ],
        )


def _is_local(directory: epath.Path) -> bool:
    """Whether a file can be written in part, and mapped into memory."""
    return "://" not in str(directory)


def _name(index: int, suffix: str) -> str:
    return f"shard-{index:05d}.{suffix}"


def _check(got: str, expected: str) -> None:
    if got != expected:
        raise ValueError(f"expected sha256 {expected}, got {got}")


def _as_npz(shard: Pairs) -> tuple[bytes, dict[str, str]]:
    """A shard as a file, and the dtypes of its arrays."""
    leaves = {f"{i:03d}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(shard))}
    buffer = io.BytesIO()
    np.savez(buffer, **leaves)  # type: ignore[arg-type]
    return buffer.getvalue(), {key: dtype_name(x.dtype) for key, x in leaves.items()}


def _from_npz(data: bytes, dtypes: Mapping[str, str]) -> list[np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        # NumPy's files do not know the types that JAX adds.
        return [arrays[key].view(np.dtype(dtypes[key])) for key in sorted(arrays.files)]
