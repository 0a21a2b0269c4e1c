"""Pairs (x_0, x(1)) of noise and true sample, on disk.

A pairs directory is `shard-00000.npz ...` plus `manifest.json`, which lists the shards
that are finished with their checksums, and says by a fingerprint what they are of.
A shard counts once the manifest lists it. The manifest is there before the first, and
then written twice, first to `manifest.backup.json`: whenever a run dies, one of the two
is whole, and no more is lost than the shard in hand. Shards without a whole manifest
may be of anything, and are refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from bns_jax import parallel
from bns_jax.pairs import Pairs
from bns_jax.pytree import differences

_FORMAT = "bns_jax.pairs/2"
_SHARD = "shard-"
_MANIFEST, _BACKUP = "manifest.json", "manifest.backup.json"


class PairStore:
    """The shards of one pairs directory."""

    def __init__(
        self, directory: epath.PathLike, fingerprint: Mapping[str, Any], like: Pairs
    ):
        """Opens a directory, or starts it.

        Args:
          directory: made if missing.
          fingerprint: JSON values that say what the pairs are of.
          like: one of the shards, or its shapes: the tree to read into.

        Raises:
          ValueError: if the directory holds pairs of another fingerprint, in which
            case the message lists what differs, shards without a whole manifest, or the
            manifest of something else.
        """
        self._directory = epath.Path(directory)
        self._structure = jax.tree.structure(like)
        fingerprint = json.loads(json.dumps(dict(fingerprint)))
        first, backup = (
            _read_manifest(self._directory / name) for name in (_MANIFEST, _BACKUP)
        )
        if first is None and backup is None:
            _check_no_shards(self._directory)
        self._first_is_whole = first is not None
        self._manifest: dict[str, Any] = (
            first
            or backup
            or {
                "format": _FORMAT,
                "fingerprint": fingerprint,
                "shards": {},
            }
        )
        _check_fingerprint(self._directory, self._manifest["fingerprint"], fingerprint)
        if parallel.is_main():
            self._directory.mkdir(parents=True, exist_ok=True)

    def read(self, index: int) -> Pairs | None:
        """A finished shard; None if it is missing or damaged."""
        name = _shard_name(index)
        entry = self._manifest["shards"].get(name)
        if entry is None:
            return None
        try:
            return _read_shard(self._directory / name, entry, self._structure)
        except ValueError as error:
            logging.warning("%s; it is made again", error)
            return None

    def write(self, index: int, shard: Pairs) -> None:
        """Adds a shard, then lists it in the manifest; process 0 does, for all."""
        if not parallel.is_main():
            return
        leaves = {
            f"{i:03d}": np.asarray(leaf)
            for i, leaf in enumerate(jax.tree.leaves(shard))
        }
        buffer = io.BytesIO()
        np.savez(buffer, **leaves)  # type: ignore[arg-type]
        data, name = buffer.getvalue(), _shard_name(index)
        if not self._first_is_whole:
            # The backup, which comes first below, may be the only whole one.
            self._write_manifest(_MANIFEST)
            self._first_is_whole = True
        (self._directory / name).write_bytes(data)
        self._manifest["shards"][name] = {
            "count": shard.size,
            "sha256": hashlib.sha256(data).hexdigest(),
            "shapes": {key: list(leaf.shape) for key, leaf in leaves.items()},
            "dtypes": {key: str(leaf.dtype) for key, leaf in leaves.items()},
        }
        for name in (_BACKUP, _MANIFEST):
            self._write_manifest(name)

    def _write_manifest(self, name: str) -> None:
        sealed = {"sha256": _digest(self._manifest), **self._manifest}
        (self._directory / name).write_text(json.dumps(sealed, indent=1))


def _shard_name(index: int) -> str:
    return f"{_SHARD}{index:05d}.npz"


def _digest(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_manifest(path: epath.Path) -> dict[str, Any] | None:
    """A manifest; None if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        logging.warning("%s is damaged: %s", path, error)
        return None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != _FORMAT:
        raise ValueError(f"{path}: expected format {_FORMAT}, got {found}")
    expected, got = manifest.pop("sha256", None), _digest(manifest)
    if got == expected:
        return manifest
    logging.warning("%s is damaged: expected sha256 %s, got %s", path, expected, got)
    return None


def _check_no_shards(directory: epath.Path) -> None:
    names = [path.name for path in directory.iterdir()] if directory.exists() else []
    shards = sorted(name for name in names if name.startswith(_SHARD))
    if shards:
        raise ValueError(
            f"{directory} holds {len(shards)} shards, but no whole manifest that says "
            f"what they are of; restore {_MANIFEST}, or remove the directory to make "
            "them again"
        )


def _check_fingerprint(
    directory: epath.Path, found: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    differing = differences(found, expected)
    if differing:
        raise ValueError(
            f"{directory} holds pairs of another configuration; " + "; ".join(differing)
        )


def _read_shard(path: epath.Path, entry: Mapping[str, Any], structure: Any) -> Pairs:
    try:
        data = path.read_bytes()
        got = hashlib.sha256(data).hexdigest()
        if got != entry["sha256"]:
            raise ValueError(f"expected sha256 {entry['sha256']}, got {got}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            leaves = [arrays[key] for key in sorted(arrays.files)]
        return jax.tree.unflatten(structure, leaves)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
