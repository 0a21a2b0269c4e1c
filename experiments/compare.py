"""All solvers side by side on a model: a table, a CSV file and a plot.

    python -m experiments.compare --solvers=ddim,dpm_solver_pp_2m@log_snr --nfe=4,8

Solver files that distillation wrote take part with --solver_files.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

from experiments.job.config import RunConfig, solvers_option
from experiments.run import cli, session
from experiments.run.config import changed, option, text

if TYPE_CHECKING:
    from bns_jax.ns import NSParams
    from bns_jax.schedulers import Scheduler


@dataclasses.dataclass(frozen=True)
class CompareConfig(RunConfig):
    """What to compare, on which model."""

    nfe: tuple[int, ...] = changed(RunConfig, "nfe", (4, 6, 8, 10, 12))
    solvers: tuple[str, ...] = solvers_option("all")
    solver_files: tuple[str, ...] = option(
        (),
        "Distilled solvers to compare too, such as solvers/bns_4.json.",
        free=True,
    )
    list: bool = option(False, "Only print what solvers there are.", shapes=False)


def main(config: CompareConfig) -> None:
    """Runs the comparison."""
    with session.running(config):
        if config.list:
            print(_describe())
        else:
            _compare(config)


def _compare(config: CompareConfig) -> None:
    from experiments.job import comparison, truth
    from experiments.models import catalogue
    from experiments.report import display
    from experiments.report.table import table
    from experiments.run.workdir import Workdir

    model = catalogue.of(config)
    solvers = _solvers(config, model.scheduler)
    workdir = Workdir(config.folder("compare"))
    workdir.claim(config.shaping(), config.free())
    test = truth.make_pairs(model, config, workdir)["test"]
    rows = comparison.compare(model, solvers, test, workdir.results("test"))
    comparison.write(rows, model, workdir)
    print(f"\non {test.size} pairs, {display.title(model)}\n")
    print(f"{table(rows, model.data_range)}\n")
    reached = [row.psnr_db for row in rows]
    print(truth.describe(model, config, workdir, test, reached))
    print(f"in {workdir.root}: table.csv  psnr_vs_nfe.png")


def _describe() -> str:
    """A line for every solver: its name, what it is, and where it is published."""
    from bns_jax import solvers, tables

    lines = [["solver", "", "reference"], []]
    for name, method in solvers.CATALOGUE.items():
        lines.append([name, method.description, method.reference])
    return tables.aligned(lines, "<")


def _solvers(
    config: CompareConfig, scheduler: Scheduler | None
) -> dict[int, dict[str, NSParams]]:
    """Those of --solvers at each of --nfe, and those of --solver_files at theirs."""
    from bns_jax import interchange
    from bns_jax import solvers as library

    names = library.expand(config.solvers)
    solvers = collections.defaultdict[int, dict[str, "NSParams"]](dict)
    for nfe in config.nfe:
        solvers[nfe] = library.build_all(names, nfe, scheduler)
    for path in config.solver_files:
        params = interchange.load(path)
        nfe = len(params.a)
        name = path.rpartition("/")[2].removesuffix(".json").removesuffix(f"_{nfe}")
        solvers[nfe][name] = params
    if not any(solvers.values()):
        raise ValueError(
            f"no solver of {list(names)} exists at --nfe={text(config.nfe)}"
        )
    return dict(sorted(solvers.items()))


if __name__ == "__main__":
    cli.launch(main, CompareConfig)
