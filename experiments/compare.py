"""All solvers side by side on a model: a table, a CSV file and a plot.

    python -m experiments.compare --solvers=ddim,dpm_solver_pp_2m@log_snr --nfe=4,8

Solver files that distillation wrote take part with --solver_files.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from absl import app, flags

from experiments.run import cli, interrupt, session

if TYPE_CHECKING:
    from bns_jax.ns import NSParams
    from bns_jax.schedulers import Scheduler

_SOLVERS = cli.define_solvers()
flags.adopt_module_key_flags(cli)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run; runs/compare_MODEL if left out."
)
_SOLVER_FILES = flags.DEFINE_list(
    "solver_files", "", "Distilled solvers to compare too, such as solvers/bns_4.json."
)
_LIST = flags.DEFINE_bool("list", False, "Only print what solvers there are.")
flags.set_default(cli.NFE, ["4", "6", "8", "10", "12"])
flags.set_default(_SOLVERS, ["all"])

_FREE_FLAGS = (cli.NFE.name, _SOLVERS.name, _SOLVER_FILES.name)
_RUN_FLAGS = (
    cli.MODEL,
    cli.WEIGHTS,
    cli.GUIDANCE,
    cli.NFE,
    _SOLVERS,
    _SOLVER_FILES,
    cli.TEST_PAIRS,
    cli.RTOL,
    cli.ATOL,
    cli.SEED,
)


def main(argv: list[str]) -> None:
    """Runs the comparison."""
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    with session.running():
        if _LIST.value:
            print(_describe())
        else:
            _compare()


def _compare() -> None:
    from experiments.job import comparison, truth
    from experiments.report.table import table
    from experiments.run.workdir import Workdir

    model = session.load_model()
    solvers = _solvers(model.scheduler)
    workdir = Workdir(_WORKDIR.value or f"runs/compare_{cli.MODEL.value}")
    workdir.claim(cli.serialize(_RUN_FLAGS), _FREE_FLAGS)
    accuracy = truth.Accuracy(cli.RTOL.value, cli.ATOL.value, cli.SEED.value)
    counts = {"test": cli.TEST_PAIRS.value}
    test = truth.make_pairs(model, counts, accuracy, workdir)["test"]
    rows = comparison.compare(model, solvers, test, workdir.results("test"))
    comparison.write(rows, model, workdir)
    print(f"\non {test.size} pairs, {model.title}\n")
    print(f"{table(rows, model.data_range)}\n")
    print(f"in {workdir.root}: table.csv  psnr_vs_nfe.png")


def _describe() -> str:
    """A line for every solver: its name, what it is, and where it is published."""
    from bns_jax import solvers, tables

    lines = [["solver", "", "reference"], []]
    for name, method in solvers.CATALOGUE.items():
        lines.append([name, method.description, method.reference])
    return tables.aligned(lines, "<")


def _solvers(scheduler: Scheduler) -> dict[int, dict[str, NSParams]]:
    """Those of --solvers at each of --nfe, and those of --solver_files at theirs."""
    from bns_jax import interchange
    from bns_jax import solvers as library

    names = library.expand(_SOLVERS.value)
    solvers = collections.defaultdict[int, dict[str, "NSParams"]](dict)
    for nfe in cli.parse_nfe(cli.NFE.value):
        solvers[nfe] = library.build_all(names, nfe, scheduler)
    for path in _SOLVER_FILES.value:
        params = interchange.load(path)
        nfe = len(params.a)
        name = path.rpartition("/")[2].removesuffix(".json").removesuffix(f"_{nfe}")
        solvers[nfe][name] = params
    if not any(solvers.values()):
        raise ValueError(f"no solver of {list(names)} exists at --nfe={cli.NFE.value}")
    return dict(sorted(solvers.items()))


if __name__ == "__main__":
    interrupt.launch(main)
