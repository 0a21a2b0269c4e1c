"""The main job on real images: distils solvers for a flow model of handwritten digits.

    python -m experiments.digits --workdir=runs/digits

makes ground-truth pairs, distils BNS solvers, and compares them with the solvers that
people use today. Every stage continues where it stopped. The network's weights ship
with the project; `--stage=pretrain` trains them anew into the workdir, where the other
stages then find them.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from experiments.job.config import JobConfig
from experiments.run import cli, session
from experiments.run.config import Config, option

if TYPE_CHECKING:
    from experiments.run.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class PretrainConfig(Config):
    """How the network is trained."""

    pretrain_iterations: int = option(8_000, "Steps of --stage=pretrain.", least=1)
    pretrain_evaluate_every: int = option(
        500,
        "Steps between measurements of the held-out loss in --stage=pretrain.",
        least=1,
    )
    seed: int = option(0, "Seed of noise, labels and batches.", least=0)


@dataclasses.dataclass(frozen=True)
class DigitsConfig(JobConfig, PretrainConfig):
    """The main job, and the training of its network."""

    stage: str = option(
        "all",
        '"all" is pairs, distill and evaluate.',
        choices=("all", "pretrain", "pairs", "distill", "evaluate"),
        shapes=False,
    )


def main(config: DigitsConfig) -> None:
    """Runs the stages that --stage names."""
    from experiments.job import main_job
    from experiments.models import catalogue
    from experiments.run.workdir import Workdir

    workdir = Workdir(config.folder())
    with session.running(config):
        if config.stage == "pretrain":
            workdir.claim(config.shaping(PretrainConfig))
            _pretrain(config, workdir)
        else:
            trained = str(workdir.weights) if workdir.weights.exists() else ""
            model = catalogue.of(config, weights=trained)
            main_job.check(model, config)
            workdir.claim(config.shaping(JobConfig), config.free())
            main_job.run(model, config, workdir, config.stage)


def _pretrain(config: DigitsConfig, workdir: Workdir) -> None:
    """Trains the network and writes its weights into the workdir."""
    from bns_jax import parallel, schedulers
    from bns_jax.distill import Report
    from bns_jax.models import UNetConfig, weights
    from experiments.data import digits
    from experiments.models.pretrain import Recipe, pretrain
    from experiments.run import preemption
    from experiments.run.progress import ProgressBar

    network = UNetConfig()
    recipe = Recipe(
        iterations=config.pretrain_iterations,
        evaluate_every=config.pretrain_evaluate_every,
        seed=config.seed,
    )
    images, held_out = digits.load()
    start = time.monotonic()
    with ProgressBar("pretrain", "step") as progress:
        trained = pretrain(
            network,
            schedulers.cond_ot(),
            recipe,
            images,
            held_out,
            workdir.checkpoint("pretrain"),
            Report(progress, stop=preemption.asked),
            session.mesh(config),
            config.shard_weights,
        )
    metadata = {
        "model": "digits",
        "scheduler": "cond_ot",
        "prediction": "velocity",
        "config": dataclasses.asdict(network),
        "recipe": dataclasses.asdict(recipe),
        "figures": trained.figures,
        "command": "python -m experiments.digits --stage=pretrain",
    }
    if parallel.is_main():
        weights.save(workdir.weights, trained.params, metadata)
    print(f"{trained.figures}, {time.monotonic() - start:.0f} s: {workdir.weights}")


if __name__ == "__main__":
    cli.launch(main, DigitsConfig)
