"""What a solver file holds: entries of JSON values, their checksum and limits."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from bns_jax.ns import NSParams, num_params
from bns_jax.purpose import Purpose, as_json
from bns_jax.pytree import checksum
from bns_jax.version import __version__

FORMATS = ("bns_jax.solver/1", "bns_jax.solver/2", "bns_jax.solver/3")
"""The first two hold the solver and metadata; the checksum of the first is of the
solver alone."""

MOST_NFE = 1000
"""A file of more evaluations is refused."""

_TEXT, _PER_NUMBER = 2**20, 40
"""Bytes that a file may have: for all that is said, and for each number."""


def of(
    params: NSParams, purpose: Purpose, metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """The entries of a solver's file, in its order.

    Args:
      params: a valid solver.
      purpose: what it is for.
      metadata: whatever else is worth keeping.

    Returns:
      The entries, JSON values, the checksum among them.

    Raises:
      ValueError: if there are more evaluations than `MOST_NFE`, another number than the
        purpose states, or the metadata are no JSON values.
    """
    arrays, n = _float64(params), len(params.a)
    _check_nfe(n)
    if not isinstance(purpose, Purpose):
        raise ValueError(f"purpose must be a Purpose, got {purpose!r:.100}")
    if purpose.nfe not in (None, n):
        raise ValueError(f"the purpose states nfe {purpose.nfe}, the solver has {n}")
    record = {
        "format": FORMATS[-1],
        "version": __version__,
        "sha256": "",
        **dataclasses.replace(purpose, nfe=n).record(),
        "metadata": as_json("metadata", metadata),
        "times": arrays.times.tolist(),
        "a": arrays.a.tolist(),
        "b": [row[: i + 1].tolist() for i, row in enumerate(arrays.b)],
    }
    record["sha256"] = digest(record)
    return record


def as_text(record: Mapping[str, Any]) -> str:
    """An entry per line, and one per row of b.

    Args:
      record: the entries, as `of` gives them.

    Returns:
      JSON.

    Raises:
      ValueError: if it is too large to be read again.
    """
    said = {name: value for name, value in record.items() if name != "b"}
    lines = [f" {json.dumps(name)}: {json.dumps(said[name])}" for name in said]
    rows = ",\n  ".join(map(json.dumps, record["b"]))
    text = "{\n" + ",\n".join([*lines, f' "b": [\n  {rows}\n ]']) + "\n}\n"
    if len(text) > (most := limit(record["nfe"])):
        raise ValueError(
            f"a file of {record['nfe']} evaluations may have {most} bytes, got "
            f"{len(text)}: keep fewer metadata in it"
        )
    return text


def parse(data: bytes) -> Any:
    """The inverse of `as_text`, of a file that is not too large for its NFE.

    Args:
      data: the bytes of a file.

    Returns:
      JSON values, of any kind.

    Raises:
      ValueError: if it is, or is no JSON.
      RecursionError: if it is nested too deep.
    """
    claims = re.findall(rb'"nfe"\s*:\s*(\d{1,9})', data)
    most = limit(min(max(map(int, claims), default=0), MOST_NFE))
    if len(data) > most:
        raise ValueError(f"expected at most {most} bytes, got {len(data)}")
    return json.loads(data.decode())


def limit(nfe: int) -> int:
    """How many bytes a file of so many evaluations may have.

    Args:
      nfe: evaluations of the field.

    Returns:
      Bytes.
    """
    return _TEXT + _PER_NUMBER * (num_params(nfe) if nfe > 0 else 0)


def digest(record: Mapping[str, Any]) -> str:
    """What the checksum of a file should be, by its format.

    Args:
      record: the entries of the file, of a known format.

    Returns:
      64 hexadecimal digits.

    Raises:
      ValueError: if an entry is no JSON value, such as NaN.
    """
    if record["format"] == FORMATS[-1]:
        rest = {name: value for name, value in record.items() if name != "sha256"}
        text = json.dumps(rest, sort_keys=True, allow_nan=False)
    else:
        text = checksum(params(record))
        if record["format"] == FORMATS[0]:
            return text
        text += " " + json.dumps(record["metadata"], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def purpose(record: Mapping[str, Any]) -> Purpose:
    """What the solver of a file is for; of older formats, its NFE alone.

    Args:
      record: the entries of the file.

    Returns:
      The purpose.

    Raises:
      KeyError: if an entry is missing.
      ValueError: if there is one too many, or one is not of its kind.
    """
    if record["format"] != FORMATS[-1]:
        return Purpose(nfe=record["nfe"])
    found = Purpose.of_record(record)
    if not isinstance(record["version"], str):
        raise ValueError(f"version must be text, got {record['version']!r:.100}")
    names = {"format", "sha256", "metadata", "times", "a", "b", "version"}
    missing = (names := names | set(found.record())) - set(record)
    if missing:
        raise KeyError(", ".join(sorted(missing)))
    if unknown := sorted(set(record) - names):
        raise ValueError(f"expected no other entries, got {', '.join(unknown):.200}")
    return found


def params(record: Mapping[str, Any]) -> NSParams:
    """The solver of a file, whose lists are as long as its NFE says.

    Args:
      record: the entries of the file.

    Returns:
      Its arrays, NumPy float64; whether they are a valid solver is not looked at.

    Raises:
      ValueError: if the lists are of other lengths, or hold anything but numbers.
    """
    n, times, a, rows = (record[name] for name in ("nfe", "times", "a", "b"))
    _check_lists(n, times, a, rows)
    b = np.zeros((n, n))
    for i, row in enumerate(rows):
        b[i, : i + 1] = row
    return _float64(NSParams(times, a, b))


def _check_lists(n: Any, times: Any, a: Any, rows: Any) -> None:
    if type(n) is not int or {type(part) for part in (times, a, rows)} != {list}:
        raise ValueError("expected an integer nfe, and lists of times, a and b")
    _check_nfe(n)
    lengths = [len(times), len(a), len(rows)]
    if lengths != [n, n, n] or list(map(len, rows)) != list(range(1, n + 1)):
        raise ValueError(
            f"expected {n} times, a and rows of b, of 1 to {n} numbers, got {lengths}"
        )
    for number in itertools.chain(times, a, *rows):
        if type(number) not in (float, int):
            raise ValueError(f"expected numbers, got {number!r:.100}")


def _check_nfe(nfe: int) -> None:
    if nfe > MOST_NFE:
        raise ValueError(f"expected at most {MOST_NFE} evaluations, got {nfe}")


def _float64(params: NSParams) -> NSParams:
    return NSParams(*(np.asarray(leaf, np.float64) for leaf in params))
