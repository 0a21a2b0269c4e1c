"""The folder of one run: its layout, and the flags it belongs to."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, get_type_hints

from etils import epath

from bns_jax import files, parallel
from experiments.run import lock

_END = "# end"
T = TypeVar("T", bound=NamedTuple)


class Workdir:
    """Paths of a run: pairs, checkpoints, solvers, histories, tables and plots."""

    def __init__(self, root: epath.PathLike):
        self.root = files.place(root, "--workdir")
        self._lock: object = None

    def pairs(self, split: str) -> epath.Path:
        """The pairs directory of "train", "validation" or "test"."""
        return self.root / "pairs" / split

    def checkpoint(self, name: str) -> epath.Path:
        """The training state of one solver or network."""
        return self.root / "checkpoints" / name

    def solver(self, name: str) -> epath.Path:
        """The file of a finished solver."""
        return self.root / "solvers" / f"{name}.json"

    def start(self, name: str) -> epath.Path:
        """The file of a solver that a search starts from."""
        return self.root / "starts" / f"{name}.json"

    def history(self, name: str) -> epath.Path:
        """The table of one solver's validations."""
        return self.root / "history" / f"{name}.csv"

    def results(self, split: str) -> epath.Path:
        """What solvers reached on the pairs of a split."""
        return self.root / "results" / split

    @property
    def weights(self) -> epath.Path:
        """The weights of a network trained in this run."""
        return self.root / "weights.safetensors"

    def claim(self, flags: Mapping[str, str], free: Iterable[str] = ()) -> None:
        """Locks the folder and writes `run.flags`, or checks those that are there.

        The lock holds until this object or the process is gone.

        Args:
          flags: name -> value of every flag that shapes the run.
          free: names that may change between calls on one workdir.

        Raises:
          ValueError: if the workdir holds a run of other flags, which are listed side
            by side, if `run.flags` is damaged, if another run is at work there, or if
            it cannot be written. Nothing is written then.
        """
        _check_one_line(flags)
        parallel.on_main(lambda: self._claim(flags, frozenset(free)))

    def _claim(self, flags: Mapping[str, str], free: frozenset[str]) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = lock.hold(self.root)
            self._write_flags(flags, free)
        except OSError as error:
            self._lock = None
            raise ValueError(f"{self.root} cannot be written: {error}") from error
        except ValueError:
            self._lock = None
            raise

    def _write_flags(self, flags: Mapping[str, str], free: frozenset[str]) -> None:
        path = self.root / "run.flags"
        there = _parse(path) if path.exists() else {}
        differing = [
            f"  --{name}: there {there[name]}, here {value}"
            for name, value in flags.items()
            if name not in free and there.get(name, value) != value
        ]
        if differing:
            raise ValueError(
                f"{self.root} holds another run; choose another --workdir, or the same "
                "flags:\n" + "\n".join(differing)
            )
        merged = {**there, **flags}
        if merged != there:
            files.write(path, _format(merged))


def write_csv(
    path: epath.Path, columns: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """Writes a table, on process 0; makes its folder."""
    if not parallel.is_main():
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    files.write(path, text.getvalue())


def read_csv(path: epath.Path, record: type[T]) -> list[T]:
    """Reads a table that `write_csv` wrote.

    Args:
      path: of the file.
      record: what a row becomes, a NamedTuple of integers, floats and strings.

    Raises:
      ValueError: if a column is missing or a cell is of another type.
    """
    types: dict[str, Any] = get_type_hints(record)
    try:
        return [
            record(*(cast(row[name]) for name, cast in types.items()))
            for row in csv.DictReader(path.read_text().splitlines())
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no table of {list(types)}: {error}") from error


def _check_one_line(flags: Mapping[str, str]) -> None:
    """Refuses what a flag file, which has a line for each, cannot hold."""
    for name, value in flags.items():
        if value.splitlines() not in ([], [value]):
            raise ValueError(f"--{name} must be of one line, got {value!r}")


def _format(flags: Mapping[str, str]) -> str:
    lines = [f"--{name}={value}" for name, value in flags.items()]
    return "\n".join([*lines, _END]) + "\n"


def _parse(path: epath.Path) -> dict[str, str]:
    """The flags of a file that is whole by its last line."""
    text = path.read_text()
    if not text.endswith(_END + "\n"):
        raise ValueError(
            f"{path} is damaged: expected {_END!r} as its last line; remove it if the "
            "flags here are those of the run"
        )
    pairs = (line[2:].partition("=") for line in text.splitlines() if line[:2] == "--")
    return {name: value for name, _, value in pairs}
