"""The finished solvers of a run: their files and their histories."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bns_jax import Problem, identity, interchange, parallel
from bns_jax.distill import Distilled, HistoryRow
from bns_jax.interchange import Measured
from bns_jax.pytree import checksum
from experiments.report import display
from experiments.report.table import Row
from experiments.run.workdir import Workdir, read_csv, write_csv

_DIGITS = 3


def name(nfe: int) -> str:
    """What a solver is called in its workdir."""
    return f"{display.BESPOKE}_{nfe}"


def find(workdir: Workdir, nfe: int, of: Mapping[str, Any]) -> Distilled | None:
    """What `write` has written; None if it has not, or not all of it.

    Args:
      workdir: of the run.
      nfe: evaluations.
      of: the identity of what is asked for.

    Raises:
      ValueError: if it is not what is asked for; names what differs.
    """
    path, history = workdir.solver(name(nfe)), workdir.history(name(nfe))
    if not path.exists():
        return None
    try:
        params, metadata = interchange.load(path), interchange.load_metadata(path)
        rows = tuple(read_csv(history, HistoryRow))
        found = Distilled(
            params,
            rows,
            metadata["forwards"],
            metadata["iteration"],
            max(row.val_metric for row in rows),
            metadata.get("identity", {}),
        )
        if metadata.get("history", _digest(rows)) != _digest(rows):
            raise ValueError(f"{history} is not the history of {path}")
    except (OSError, KeyError, ValueError) as error:
        logging.warning("%s; the solver is made again from its checkpoint", error)
        return None
    # Which start it came from depends on the numbers of evaluations asked for then.
    start = found.identity.get("start")
    identity.check_same(
        found.identity,
        {**of, "start": start},
        f"{path} is of another run",
        "remove it to make it again, or choose another --workdir",
    )
    return found


def write(
    model: Problem, workdir: Workdir, nfe: int, start: str, fitted: Distilled
) -> None:
    """The history, and last the solver file: it says that the run is finished.

    Args:
      model: that it was made for.
      workdir: of the run.
      nfe: evaluations.
      start: the name of what the search began at.
      fitted: the solver.
    """
    if not parallel.is_main():
        return
    metadata = model.facts | {
        "start": start,
        "validation_psnr_db": _finite(fitted.val_metric),
        "iteration": fitted.iteration,
        "forwards": fitted.forwards,
        "history": _digest(fitted.history),
        "identity": dict(fitted.identity),
    }
    write_csv(workdir.history(name(nfe)), HistoryRow._fields, fitted.history)
    path, purpose = workdir.solver(name(nfe)), model.purpose(fitted.identity)
    interchange.save(path, fitted.params, metadata, purpose=purpose)


def add_measured(
    model: Problem, workdir: Workdir, pairs: int, row: Row, best_other: Row
) -> None:
    """Lets a solver file say what its solver reaches on the test pairs.

    Args:
      model: that it was made for.
      workdir: of the run.
      pairs: how many there are.
      row: what the solver reaches.
      best_other: what the best other solver does.
    """
    if not parallel.is_main():
        return
    low, high = _finite(row.low_db), _finite(row.high_db)
    measured = Measured(
        on="test pairs, which took part in nothing else",
        pairs=pairs,
        psnr_db=_finite(row.psnr_db),
        interval_db=None if low is None or high is None else (low, high),
        best_other=best_other.solver,
        best_other_psnr_db=_finite(best_other.psnr_db),
    )
    path = workdir.solver(name(row.nfe))
    if interchange.load_purpose(path).measured == measured:
        return
    params, metadata = interchange.load(path), interchange.load_metadata(path)
    purpose = model.purpose(metadata.get("identity", {}), measured)
    interchange.save(path, params, metadata, purpose=purpose)


def _finite(value: float) -> float | None:
    """Rounded; None if it is not finite, as of a solver that blew up."""
    return round(float(value), _DIGITS) if np.isfinite(value) else None


def _digest(history: Sequence[HistoryRow]) -> str:
    """What tells one history from another, but for the time that it took."""
    return checksum([np.asarray(row[:-1], np.float64) for row in history])
