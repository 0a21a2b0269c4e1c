"""Theorem 3.2 on every solver of the library: its three arrays are run, and read.

    python -m experiments.taxonomy

runs each solver twice, as the algorithm of its paper and as three arrays, prints how
far apart the two end, and places each in Figure 3 by what its numbers show. It fails
if any two runs differ, or if numbers do not show what the catalogue says.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.run import cli
from experiments.run.config import Config, check_nfe, option

if TYPE_CHECKING:
    from experiments.run.workdir import Workdir
    from experiments.taxonomy.specimens import Specimen

_TOLERANCE = 1e-12


@dataclasses.dataclass(frozen=True)
class TaxonomyConfig(Config):
    """The solvers to run and to place."""

    nfe: tuple[int, ...] = option(
        (4, 6, 8, 9, 12, 16, 20), "Numbers of evaluations to run the solvers at."
    )
    solvers: tuple[str, ...] = option((), "Names of the catalogue; all if empty.")
    solver_files: tuple[str, ...] = option(
        (), "Solver files to place too, such as distillation writes."
    )
    scheduler: str = option(
        "cond_ot", "Path of the model that the solver files are for."
    )
    workdir: str = option(
        "runs/taxonomy", "Folder of the run; holds everything it writes."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nfe(self)


def main(config: TaxonomyConfig) -> None:
    """Prints both tables, and writes them and the picture."""
    import jax

    from bns_jax import solvers
    from experiments.run.progress import quiet
    from experiments.run.workdir import Workdir

    quiet()
    jax.config.update("jax_enable_x64", True)
    names = list(dict.fromkeys(config.solvers)) or list(solvers.CATALOGUE)
    workdir = Workdir(config.workdir)
    try:
        specimens = _specimens(config, names)
        wrong = _compare(config, names, workdir)
    except ValueError as error:
        sys.exit(f"error: {error}")
    wrong += _place(specimens, workdir)
    print(f"in {workdir.root}: agreement.csv  taxonomy.csv  taxonomy.png")
    if wrong:
        sys.exit("error: " + "; ".join(wrong))


def _compare(
    config: TaxonomyConfig, names: Sequence[str], workdir: Workdir
) -> list[str]:
    """Runs every solver twice; returns what is wrong.

    Raises:
      ValueError: if no solver has a member at the numbers of evaluations asked for.
    """
    from experiments.run.workdir import write_csv
    from experiments.taxonomy import agreement

    nfes = config.nfe
    found = agreement.differences(names, nfes)
    worst = agreement.largest(found)
    print("largest difference of algorithm and arrays, relative to the largest entry\n")
    header = ["scheduler", "solver", *map(str, nfes)]
    _print_table(header, agreement.lines(found, nfes))
    verdict = (
        f"{worst.relative:.1e} ({worst.solver}, {worst.nfe} evaluations, "
        f"{worst.scheduler})"
    )
    print(f"largest of all: {verdict}\n")
    write_csv(workdir.root / "agreement.csv", agreement.Difference._fields, found)
    if worst.relative <= _TOLERANCE:
        return []
    return [f"two runs of one solver differ by {verdict}"]


def _specimens(config: TaxonomyConfig, names: Sequence[str]) -> list[Specimen]:
    """What there is to place: the catalogue's, others of each region, and files.

    Raises:
      ValueError: if a name or a scheduler is unknown, or a file holds no solver.
    """
    from experiments.taxonomy import specimens

    return [
        *map(specimens.of_catalogue, names),
        *specimens.under_cosine(),
        specimens.random_member(),
        *(specimens.of_file(p, config.scheduler) for p in config.solver_files),
    ]


def _place(specimens: Sequence[Specimen], workdir: Workdir) -> list[str]:
    """Tells and draws where each solver belongs; returns what is wrong."""
    from experiments.run.workdir import write_csv
    from experiments.taxonomy import classify, venn
    from experiments.taxonomy.specimens import COLUMNS

    regions = list(classify.REGIONS)
    ordered = sorted(specimens, key=lambda specimen: regions.index(specimen.region))
    lines = [specimen.cells() for specimen in ordered]
    print("what the numbers show\n")
    _print_table(COLUMNS, lines)
    write_csv(workdir.root / "taxonomy.csv", COLUMNS, lines)
    venn.draw(specimens, workdir.root / "taxonomy.png")
    return [
        f"the numbers of {specimen.name} do not show that it is {specimen.kind}"
        for specimen in specimens
        if not specimen.agrees
    ]


def _print_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Aligned columns, with a rule where the first changes."""
    from bns_jax import tables

    ruled = [header]
    for _, group in itertools.groupby(lines, key=lambda line: line[0]):
        ruled += [[], *group]
    print(tables.aligned([*ruled, []], "<"))


if __name__ == "__main__":
    cli.launch(main, TaxonomyConfig)
