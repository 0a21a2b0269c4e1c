"""What a trainer reaches for how many field calls: Gauss-Newton against Algorithm 2.

    python -m experiments.bench_distill --model=mixture --nfe=4,8,16

Both fit the same pairs. Algorithm 2 starts from the midpoint method and takes 15,000
steps of Adam; Gauss-Newton starts from the greedy solver, whose calls are counted, and
runs once per seed. Every solver on the way is measured on the test pairs. Runs continue
where they stopped, so that Algorithm 2 may be spread over days.

    python -m experiments.bench_distill --model=mixture --histories=FOLDER

shows what runs have left there, such as `experiments/bench_distill/histories/mixture`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.job.config import PairsConfig, RunConfig
from experiments.run import cli, session
from experiments.run.config import changed, option

if TYPE_CHECKING:
    from bns_jax import Problem
    from experiments.bench_distill.duel import Duel
    from experiments.run.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class BenchConfig(RunConfig, PairsConfig):
    """Both trainers on a model."""

    nfe: tuple[int, ...] = changed(RunConfig, "nfe", (4, 8, 16))
    train_pairs: int = option(520, "Pairs that solvers are fitted to.", least=40)
    histories: str = option(
        "", "Folder of histories to show, instead of running anything.", shapes=False
    )
    seeds: int = option(
        3,
        "Runs of Gauss-Newton, of which the median counts.",
        least=1,
        shapes=False,
    )
    algorithm2_iterations: int = option(15_000, "Steps of Algorithm 2.", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_even_nfe()


def main(config: BenchConfig) -> None:
    """Runs the benchmark."""
    with session.running(config):
        _run(config)


def _run(config: BenchConfig) -> None:
    from experiments.bench_distill import duel
    from experiments.models import catalogue
    from experiments.report import display
    from experiments.run.workdir import Workdir

    model = catalogue.of(config)
    workdir = Workdir(config.folder("bench_distill"))
    exact = ""
    if config.histories:
        duels = [duel.read(config.histories, nfe) for nfe in config.nfe]
    else:
        duels, exact = _duels(config, model, workdir)
    what = f"{display.psnr_of(model.data_range)}, dB"
    print(f"\n{what}, on the test pairs, {display.title(model)}\n")
    print(f"{duel.table(duels)}\n{exact}")
    path = workdir.root / "psnr_vs_forwards.png"
    duel.plot(duels, path, display.title(model), model.data_range)
    print(f"\nin {workdir.root}: psnr_vs_forwards.png")


def _duels(
    config: BenchConfig, model: Problem, workdir: Workdir
) -> tuple[list[Duel], str]:
    """Runs both trainers, each to its end, and says how exact the pairs are.

    What the workdir has of them is read.
    """
    from experiments.bench_distill import duel
    from experiments.job import truth

    workdir.claim(config.shaping(), config.free())
    pairs = truth.make_pairs(model, config, workdir)
    steps, seeds = config.algorithm2_iterations, config.seeds
    duels = [duel.run(model, pairs, nfe, steps, seeds, workdir) for nfe in config.nfe]
    reached = [db for one in duels for db in one.reached_db]
    return duels, truth.describe(model, config, workdir, pairs["test"], reached)


if __name__ == "__main__":
    cli.launch(main, BenchConfig)
