"""What matters for a distilled solver: a table, a CSV file and a plot per question.

    python -m experiments.ablations --model=mixture --studies=start,sigma_0 --nfe=4,8

The studies are the paper's Figure 11 (BNS against BST) and Table 5 (solvers before and
after), its preconditioning sigma_0 and guidance w, where the search starts, and how
many pairs it needs. All train by Gauss-Newton, except that BST's own loss takes Adam.
"""

from __future__ import annotations

import dataclasses
import functools

from experiments.job.config import PairsConfig, RunConfig
from experiments.run import cli, session
from experiments.run.config import option

_ALL = ("figure11", "table5", "sigma_0", "start", "train_pairs", "guidance")


@dataclasses.dataclass(frozen=True)
class AblationsConfig(RunConfig, PairsConfig):
    """The studies of a model."""

    studies: tuple[str, ...] = option(
        _ALL, f"Studies to run, of {', '.join(_ALL)}.", choices=_ALL, free=True
    )
    iterations: int = option(0, "Steps; 0 leaves them to the optimizer.", least=0)
    most_train_pairs: int = option(
        2048,
        "Most pairs that the study train_pairs fits to, out of 32, 128, 520 and 2048.",
        least=32,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_even_nfe()
        if not self.studies:
            raise ValueError(f"--studies must be of {', '.join(_ALL)}, got none")


def main(config: AblationsConfig) -> None:
    """Runs the studies that --studies names."""
    with session.running(config):
        _run(config)


def _run(config: AblationsConfig) -> None:
    from bns_jax import distill, tables
    from experiments.ablations import studies, study
    from experiments.job import truth
    from experiments.models import catalogue
    from experiments.report import display
    from experiments.run.workdir import Workdir, write_csv

    model = catalogue.of(config)
    workdir = Workdir(config.folder("ablations"))
    workdir.claim(config.shaping(), config.free())
    optimizer = distill.gauss_newton()
    bench = studies.Bench(
        model,
        functools.partial(catalogue.of, config),
        truth.make_pairs(model, config, workdir),
        config.most_train_pairs,
        config.nfe,
        optimizer.replace(iterations=config.iterations or optimizer.iterations),
        config,
        workdir,
    )
    reached = []
    for name in config.studies:
        question = studies.STUDIES[name]
        results = question.run(bench)
        reached += [result.psnr_db for result in results]
        cells = [result.cells() for result in results]
        columns = study.StudyResult._fields
        what = f"{display.psnr_of(model.data_range)}, dB"
        print(f"\n{name}: {what}, on {config.test_pairs} test pairs\n")
        print(tables.aligned([list(columns), [], *cells]), "\n", flush=True)
        write_csv(workdir.root / f"{name}.csv", columns, cells)
        title = f"{name}: {model.name}"
        path = workdir.root / f"{name}.png"
        study.plot(
            results, path, question.varies, title, question.by_nfe, model.data_range
        )
    print(truth.describe(model, config, workdir, bench.pairs["test"], reached))


if __name__ == "__main__":
    cli.launch(main, AblationsConfig)
