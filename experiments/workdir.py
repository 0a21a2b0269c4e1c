"""The folder of one run: its layout, and the flags it belongs to."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence

from etils import epath


class Workdir:
    """Paths of a run: pairs, checkpoints, solvers, histories, tables and plots."""

    def __init__(self, root: epath.PathLike):
        self.root = epath.Path(root)

    def pairs(self, split: str) -> epath.Path:
        """The pairs directory of "train", "validation" or "test"."""
        return self.root / "pairs" / split

    def checkpoint(self, name: str) -> epath.Path:
        """The training state of one solver or network."""
        return self.root / "checkpoints" / name

    def solver(self, name: str) -> epath.Path:
        """The file of a finished solver."""
        return self.root / "solvers" / f"{name}.json"

    def history(self, name: str) -> epath.Path:
        """The table of one solver's validations."""
        return self.root / "history" / f"{name}.csv"

    @property
    def weights(self) -> epath.Path:
        """The weights of a network trained in this run."""
        return self.root / "weights.safetensors"

    def claim(self, flags: Mapping[str, str], free: Iterable[str] = ()) -> None:
        """Writes `run.flags`, or checks that the run there had the same flags.

        Args:
          flags: name -> value of every flag that shapes the run.
          free: names that may change between calls on one workdir.

        Raises:
          ValueError: if the workdir holds a run of other flags; lists them side by
            side. Nothing is written then.
        """
        path = self.root / "run.flags"
        there = _parse(path.read_text()) if path.exists() else {}
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
        self.root.mkdir(parents=True, exist_ok=True)
        lines = [f"--{name}={value}" for name, value in {**there, **flags}.items()]
        path.write_text("\n".join(lines) + "\n")


def write_csv(
    path: epath.Path, columns: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """Writes a table; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _parse(text: str) -> dict[str, str]:
    pairs = (line[2:].partition("=") for line in text.splitlines() if line[:2] == "--")
    return {name: value for name, _, value in pairs}
