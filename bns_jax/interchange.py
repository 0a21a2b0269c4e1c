"""A solver as one small readable file: JSON, what it is for, and a checksum.

`bns_jax/solver.schema.json` is the JSON Schema of the file; `runners/numpy_runner.py`
reads and runs it without JAX.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etils import epath

from bns_jax import files, notices, solver_record
from bns_jax.expectation import check
from bns_jax.ns import NSParams, validate
from bns_jax.purpose import Measured as Measured
from bns_jax.purpose import Purpose as Purpose


def save(
    path: epath.PathLike,
    params: NSParams,
    metadata: Mapping[str, Any] | None = None,
    *,
    purpose: Purpose | None = None,
) -> None:
    """Writes a solver with every digit of its numbers.

    Args:
      path: the file; its folder is made.
      params: the solver, of at most 1,000 evaluations.
      metadata: whatever else is worth keeping, as JSON values. JSON has no NaN and no
        infinities; None may stand for them.
      purpose: what the solver is for; its number of evaluations is added.

    Raises:
      ValueError: if it is no valid solver (see `ns.validate`), has more evaluations or
        another number than its purpose says, or the metadata are no JSON values, or
        more than 1 MiB of them.
    """
    validate(params)
    stated = Purpose() if purpose is None else purpose
    record = solver_record.of(params, stated, {} if metadata is None else metadata)
    files.write(path, solver_record.as_text(record))


def load(path: epath.PathLike, *, expect: Purpose | None = None) -> NSParams:
    """Reads a solver, ready for `bns_jax.sample`.

    Args:
      path: the file.
      expect: the problem at hand. What both it and the file state must agree, but for
        what was measured; a warning says what the file does not state.

    Returns:
      The solver, NumPy float64.

    Raises:
      ValueError: if the file is missing, is no solver file, is damaged, or is for
        another problem; names which of scheduler, prediction, guidance, NFE and the
        rest differ.
    """
    if not isinstance(expect, Purpose | None):
        raise ValueError(f"expect must be a Purpose, got {expect!r:.100}")
    params, record = _load(path)
    if expect is not None:
        unknown = check(
            solver_record.purpose(record),
            expect,
            f"{path} is for another problem",
            "take a solver that was made for this one",
        )
        if unknown:
            names = ", ".join(unknown)
            notices.warn(f"{path} does not state: {names}")
    return params


def load_metadata(path: epath.PathLike) -> dict[str, Any]:
    """What a solver file says besides what it is for.

    Args:
      path: the file.

    Returns:
      The metadata, JSON values by name.

    Raises:
      ValueError: if the file is missing, is no solver file, or is damaged; of a file of
        the first format, whose checksum is of the solver alone, damage is not seen.
    """
    return dict(_load(path)[1]["metadata"])


def load_purpose(path: epath.PathLike) -> Purpose:
    """What the solver of a file is for; of older formats, its NFE alone.

    Args:
      path: the file.

    Returns:
      The purpose; what the file does not state is None.

    Raises:
      ValueError: as `load`.
    """
    return solver_record.purpose(_load(path)[1])


def _load(path: epath.PathLike) -> tuple[NSParams, dict[str, Any]]:
    """The solver of a file, and all that the file says."""
    record = _read(path)
    try:
        params = solver_record.params(record)
        validate(params)
        solver_record.purpose(record)
        got, expected = solver_record.digest(record), record["sha256"]
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} holds no valid solver: {reason}") from error
    if got != expected:
        raise ValueError(f"{path} is damaged: expected sha256 {expected}, got {got}")
    return params, record


def _read(path: epath.PathLike) -> dict[str, Any]:
    """A file of a format that is known, as JSON values."""
    data = files.read(path, "solver", solver_record.limit(solver_record.MOST_NFE))
    try:
        if told := files.not_data(data):
            raise ValueError(told)
        record = solver_record.parse(data)
    except ValueError as error:
        raise ValueError(f"{path} is no solver file: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is no solver file: it is nested too deep") from error
    formats = solver_record.FORMATS
    found = record.get("format") if isinstance(record, dict) else None
    if found not in formats:
        raise ValueError(
            f"{path}: expected format {formats[-1]} or older, got {found!r:.100}"
        )
    if found != formats[-1]:
        record.setdefault("metadata", {})
    if not isinstance(metadata := record.get("metadata", {}), dict):
        raise ValueError(
            f"{path}: expected metadata by name, got a {type(metadata).__name__}"
        )
    return record
