"""What solvers reached, kept in a directory: one file per number of evaluations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bns_jax import files, identity, parallel
from bns_jax.ns import NSParams
from bns_jax.pytree import checksum

_FORMAT = "bns_jax.results/1"


class Result(NamedTuple):
    """What one solver reaches.

    Attributes:
      solver: its name.
      nfe: evaluations of the field.
      mean: of the metric over the pairs; nan or -inf where the solver blows up.
      low: the lower end of the 95 % bootstrap interval of the mean, nan without one.
      high: the upper end.
    """

    solver: str
    nfe: int
    mean: float
    low: float
    high: float


class ResultsStore:
    """Results in a directory; without one they are kept for as long as it lives."""

    def __init__(self, directory: epath.PathLike | None, of: Mapping[str, Any]):
        """Opens a directory, which the first result makes if it is missing.

        Args:
          directory: of the results.
          of: their identity: of what field, pairs and metric they are.
        """
        self._directory = None
        if directory is not None:
            self._directory = files.place(directory, "the directory of results")
        self._of = dict(of)
        self._entries: dict[int, dict[str, list[str]]] = {}

    def find(self, name: str, nfe: int, params: NSParams) -> Result | None:
        """A result of this solver; None if there is none.

        Args:
          name: of the solver.
          nfe: evaluations of the field.
          params: the solver; one of other numbers has another result.

        Returns:
          The result, or None.

        Raises:
          ValueError: if the directory is of something else; says what differs.
        """
        entry = self._at(nfe).get(name)
        if entry is None or entry[0] != _numbers(params):
            return None
        mean, low, high = map(float, entry[1:])
        return Result(name, nfe, mean, low, high)

    def add(self, result: Result, params: NSParams) -> None:
        """Keeps a result; process 0 writes.

        Args:
          result: what the solver reached.
          params: the solver.

        Raises:
          OSError: if it cannot be written.
        """
        numbers = [repr(number) for number in result[2:]]
        # Another program may have added its own meanwhile.
        self._entries[result.nfe] = self._at(result.nfe) | self._read(result.nfe)
        self._entries[result.nfe][result.solver] = [_numbers(params), *numbers]
        if self._directory is not None and parallel.is_main():
            body = {"of": self._of, "results": self._at(result.nfe)}
            record = {"format": _FORMAT, "sha256": identity.digest(body), **body}
            files.write(self._path(result.nfe), json.dumps(record, indent=1))

    def _at(self, nfe: int) -> dict[str, list[str]]:
        if nfe not in self._entries:
            self._entries[nfe] = self._read(nfe)
        return self._entries[nfe]

    def _read(self, nfe: int) -> dict[str, list[str]]:
        """What one file holds; nothing if it is missing or damaged."""
        if self._directory is None or not self._path(nfe).exists():
            return {}
        path = self._path(nfe)
        try:
            record = json.loads(path.read_text())
            body = {"of": record["of"], "results": record["results"]}
            if record["sha256"] != identity.digest(body):
                return {}
        except (ValueError, KeyError, TypeError):
            return {}
        identity.check_same(
            body["of"],
            self._of,
            f"{path} holds results of something else",
            "remove it to measure again, or give another directory",
        )
        return dict(body["results"])

    def _path(self, nfe: int) -> epath.Path:
        assert self._directory is not None
        return self._directory / f"nfe_{nfe}.json"


def _numbers(params: NSParams) -> str:
    """The checksum of a solver, in whatever precision its numbers are held."""
    return checksum([np.asarray(leaf, np.float64) for leaf in params])
