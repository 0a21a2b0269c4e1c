"""What a pairs directory is of, and which of its shards are finished.

The manifest is written once, before the first shard, and a second time as
`manifest.backup.json`. A shard is finished once its seal is there: a small file with
its checksum and that of the manifest, so that no shard of other pairs passes for it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from bns_jax import files
from bns_jax.identity import PROBE, differences
from bns_jax.leaf_files import Leaf, checksum

_FORMAT, _OLDER = "bns_jax.pairs/3", "bns_jax.pairs/2"
_MANIFESTS = ("manifest.json", "manifest.backup.json")
_OWN = re.compile(r"shard-[0-9]+\.(json|npz)|[0-9]{3}-[a-z0-9]+\.npy")


class Manifest:
    """The manifest of one pairs directory and the seals that go with it.

    Attributes:
      leaves: those that have samples, each with all of them; none are known before
        the first shard, or of a directory of format 2.
      times: of the path; likewise.
      older: the shards of a directory of format 2, by their names.
      is_older: whether it is one.
    """

    def __init__(self, directory: epath.Path, fingerprint: Mapping[str, Any]):
        """Reads the manifest, if there is one.

        Args:
          directory: of the pairs.
          fingerprint: JSON values that say what the pairs are of.

        Raises:
          ValueError: if it is of another fingerprint, of something else, or missing
            beside shards; if the fingerprint is no JSON.
          OSError: if it cannot be read.
        """
        self._directory, self._fingerprint = directory, _as_json(fingerprint)
        there = [_read(directory / name) for name in _MANIFESTS]
        self._content: dict[str, Any] | None = there[0] or there[1]
        self._is_kept = None not in there
        if self._content is None:
            _check_no_shards(directory)
            content: dict[str, Any] = {}
        else:
            content = self._content
            found = content["fingerprint"]
            if content["format"] == _OLDER:
                found = _in_todays_words(found, self._fingerprint)
                logging.warning(
                    "%s was written by an older version, which kept the weights of the "
                    "field and not what it answers: make sure that it is the same",
                    directory,
                )
            _check_fingerprint(directory, found, self._fingerprint)
        self.is_older = content.get("format") == _OLDER
        self.older: dict[str, Any] = content.get("shards", {})
        self.leaves = [
            Leaf(name, axis, dtype, tuple(shape))
            for name, axis, dtype, shape in content.get("leaves", [])
        ]
        self.times = np.asarray(content.get("times", []), np.float64)

    def keep(self, leaves: Sequence[Leaf], times: np.ndarray) -> None:
        """Writes what is not there yet; process 0 does, before each shard.

        Args:
          leaves: those that have samples, each with all of them.
          times: of the path.

        Raises:
          OSError: if it cannot be written.
        """
        if self._content is None:
            self._content = {
                "format": _FORMAT,
                "fingerprint": self._fingerprint,
                "leaves": [list(leaf) for leaf in leaves],
                "times": times.tolist(),
            }
        if not self._is_kept:
            sealed = {"sha256": _digest(self._content), **self._content}
            for name in _MANIFESTS:
                files.write(self._directory / name, json.dumps(sealed, indent=1))
            self._is_kept = True

    def seal(self, name: str, entry: Mapping[str, Any]) -> None:
        """Says that a shard is finished, and what it is by its checksum.

        Args:
          name: of the seal's file.
          entry: JSON values, the checksum among them.

        Raises:
          OSError: if it cannot be written.
        """
        assert self._content is not None
        sealed = {"of": _digest(self._content), **entry}
        files.write(self._directory / name, json.dumps(sealed))

    def sealed(self, name: str) -> dict[str, Any] | None:
        """What `seal` said; None if it has not.

        Args:
          name: of the seal's file.

        Returns:
          The entry, or None.

        Raises:
          ValueError: if the seal is damaged, or of other pairs.
        """
        path = self._directory / name
        if self._content is None or not path.exists():
            return None
        entry = json.loads(path.read_text())
        expected = _digest(self._content)
        if not isinstance(entry, dict) or entry.get("of") != expected:
            raise ValueError(f"{path} is of other pairs")
        return entry


def _as_json(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint as it comes back from a file."""
    found = {}
    for key, value in fingerprint.items():
        try:
            found[str(key)] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"fingerprint must hold JSON values, got {key}={value!r:.60}: {error}"
            ) from error
    return found


def _in_todays_words(
    found: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, Any]:
    """A fingerprint of format 2, which knew less of the field than is compared now."""
    words = {"weights": "field_weights"}
    known = {words.get(key, key): value for key, value in found.items()}
    unknown = ("field", f"field_{PROBE}")
    return known | {key: expected[key] for key in unknown if key in expected}


def _digest(content: Mapping[str, Any]) -> str:
    return checksum([json.dumps(content, sort_keys=True).encode()])


def _read(path: epath.Path) -> dict[str, Any] | None:
    """A manifest; None if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        logging.warning("%s is damaged: %s", path, error)
        return None
    found = content.get("format") if isinstance(content, dict) else None
    if found not in (_FORMAT, _OLDER):
        raise ValueError(
            f"{path}: expected format {_FORMAT}, got {found}; continue with the "
            "version of bns_jax that wrote it, or give another directory"
        )
    expected, got = content.pop("sha256", None), _digest(content)
    if got == expected:
        return content
    logging.warning("%s is damaged: expected sha256 %s, got %s", path, expected, got)
    return None


def _check_no_shards(directory: epath.Path) -> None:
    names = [path.name for path in directory.iterdir()] if directory.exists() else []
    shards = {name.partition(".")[0] for name in names if _OWN.fullmatch(name)}
    if shards:
        raise ValueError(
            f"{directory} holds {len(shards)} shards or leaves, but no whole manifest "
            f"that says what they are of; restore {_MANIFESTS[0]}, or remove the "
            "directory to make them again"
        )


def _check_fingerprint(
    directory: epath.Path, found: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    differing = differences(found, expected)
    if differing:
        raise ValueError(
            f"{directory} holds pairs of another configuration; " + "; ".join(differing)
        )
