"""A solver as one small readable file: JSON, with a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from bns_jax import files
from bns_jax.ns import NSParams, validate
from bns_jax.pytree import checksum

_FORMAT, _OLDER = "bns_jax.solver/2", "bns_jax.solver/1"
"""The older one has the same entries; its checksum is of the arrays alone."""


def save(
    path: epath.PathLike, params: NSParams, metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes a solver with every digit of its numbers.

    Args:
      path: the file; its folder is made.
      params: the solver.
      metadata: JSON values that say what it is for: the model, guidance, what it
        reached. JSON has no NaN and no infinities; None may stand for them.

    Raises:
      ValueError: if it is no valid solver (see `ns.validate`), or the metadata are no
        JSON values.
    """
    validate(params)
    arrays, metadata = _float64(params), dict(metadata or {})
    try:
        json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata must be JSON values: {error}") from error
    rows = [json.dumps(row[: i + 1].tolist()) for i, row in enumerate(arrays.b)]
    header = {
        "format": _FORMAT,
        "nfe": len(arrays.a),
        "metadata": metadata,
        "sha256": _digest(arrays, metadata),
        "times": arrays.times.tolist(),
        "a": arrays.a.tolist(),
    }
    lines = [
        f" {json.dumps(key)}: {json.dumps(value)}" for key, value in header.items()
    ]
    lines.append(' "b": [\n  ' + ",\n  ".join(rows) + "\n ]")
    files.write(path, "{\n" + ",\n".join(lines) + "\n}\n")


def load(path: epath.PathLike) -> NSParams:
    """Reads a solver, ready for `bns_jax.sample`.

    Returns:
      The solver, NumPy float64.

    Raises:
      ValueError: if the file is missing, is no solver file, or is damaged.
    """
    record = _read(path)
    try:
        params = _params(record)
        validate(params)
        got, expected = _digest_of(record, params), record["sha256"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} holds no valid solver: {reason}") from error
    if got != expected:
        raise ValueError(f"{path} is damaged: expected sha256 {expected}, got {got}")
    return params


def load_metadata(path: epath.PathLike) -> dict[str, Any]:
    """What a solver file says of itself.

    Raises:
      ValueError: if the file is missing, is no solver file, or is damaged; of a file of
        the older format, whose checksum is of the solver alone, damage is not seen.
    """
    load(path)
    return dict(_read(path)["metadata"])


def _read(path: epath.PathLike) -> dict[str, Any]:
    data = files.read(path, "solver")
    try:
        if told := files.not_data(data):
            raise ValueError(told)
        record = json.loads(data.decode())
    except ValueError as error:
        raise ValueError(f"{path} is no solver file: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is no solver file: it is nested too deep") from error
    found = record.get("format") if isinstance(record, dict) else None
    if found not in (_FORMAT, _OLDER):
        raise ValueError(f"{path}: expected format {_FORMAT}, got {found!r:.100}")
    metadata = record.setdefault("metadata", {})
    if not isinstance(metadata, dict):
        raise ValueError(
            f"{path}: expected metadata by name, got a {type(metadata).__name__}"
        )
    return record


def _digest_of(record: Mapping[str, Any], params: NSParams) -> str:
    """What the checksum of a file should be, by its format."""
    if record["format"] == _OLDER:
        return checksum(params)
    return _digest(params, record["metadata"])


def _digest(params: NSParams, metadata: Mapping[str, Any]) -> str:
    text = json.dumps(metadata, sort_keys=True)
    return hashlib.sha256(f"{checksum(params)} {text}".encode()).hexdigest()


def _params(record: Mapping[str, Any]) -> NSParams:
    """The solver of a file, whose lists are as long as its NFE says.

    Raises:
      ValueError: if they are not.
    """
    n, rows = record["nfe"], record["b"]
    lists = [record["times"], record["a"], rows]
    if type(n) is not int or not all(isinstance(part, list) for part in lists):
        raise ValueError("expected an integer nfe, and lists of times, a and b")
    lengths = [len(part) for part in lists]
    if lengths != [n, n, n] or [len(row) for row in rows] != list(range(1, n + 1)):
        raise ValueError(
            f"expected {n} times, a and rows of b, of 1 to {n} numbers, got {lengths}"
        )
    b = np.zeros((n, n))
    for i, row in enumerate(rows):
        b[i, : i + 1] = row
    return _float64(NSParams(record["times"], record["a"], b))


def _float64(params: NSParams) -> NSParams:
    return NSParams(*(np.asarray(leaf, np.float64) for leaf in params))
