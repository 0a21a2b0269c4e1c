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

from absl import app, flags

from experiments.job import job_flags
from experiments.run import cli, interrupt, session

if TYPE_CHECKING:
    from experiments.run.workdir import Workdir

_STAGES = ("all", "pretrain", "pairs", "distill", "evaluate")

flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(job_flags)
_STAGE = flags.DEFINE_enum(
    "stage", "all", _STAGES, '"all" is pairs, distill and evaluate.'
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run; runs/MODEL if left out."
)
_PRETRAIN_ITERATIONS = flags.DEFINE_integer(
    "pretrain_iterations", 8_000, "Steps of --stage=pretrain.", lower_bound=1
)
_PRETRAIN_EVALUATE_EVERY = flags.DEFINE_integer(
    "pretrain_evaluate_every",
    500,
    "Steps between measurements of the held-out loss in --stage=pretrain.",
    lower_bound=1,
)

_PRETRAIN_FLAGS = (_PRETRAIN_ITERATIONS, _PRETRAIN_EVALUATE_EVERY, cli.SEED)


def main(argv: list[str]) -> None:
    """Runs the stages that --stage names."""
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    from experiments.job import main_job
    from experiments.run.workdir import Workdir

    workdir = Workdir(_WORKDIR.value or f"runs/{cli.MODEL.value}")
    with session.running():
        if _STAGE.value == "pretrain":
            workdir.claim(cli.serialize(_PRETRAIN_FLAGS))
            _pretrain(workdir)
        else:
            pretrained = str(workdir.weights) if workdir.weights.exists() else ""
            model = session.load_model(weights=pretrained)
            settings = job_flags.settings()
            main_job.check(model, settings)
            workdir.claim(cli.serialize(job_flags.RUN_FLAGS), job_flags.FREE_FLAGS)
            main_job.run(model, settings, workdir, _STAGE.value)


def _pretrain(workdir: Workdir) -> None:
    """Trains the network and writes its weights into the workdir."""
    from bns_jax import parallel, schedulers
    from bns_jax.models import UNetConfig, weights
    from experiments.data import digits
    from experiments.models.pretrain import Recipe, pretrain
    from experiments.run import preemption
    from experiments.run.progress import Progress

    config = UNetConfig()
    recipe = Recipe(
        iterations=_PRETRAIN_ITERATIONS.value,
        evaluate_every=_PRETRAIN_EVALUATE_EVERY.value,
        seed=cli.SEED.value,
    )
    images, held_out = digits.load()
    start = time.monotonic()
    with Progress("pretrain", "step") as progress:
        trained = pretrain(
            config,
            schedulers.cond_ot(),
            recipe,
            images,
            held_out,
            workdir.checkpoint("pretrain"),
            progress,
            cli.mesh(),
            cli.SHARD_WEIGHTS.value,
            preemption.asked,
        )
    metadata = {
        "model": "digits",
        "scheduler": "cond_ot",
        "prediction": "velocity",
        "config": dataclasses.asdict(config),
        "recipe": dataclasses.asdict(recipe),
        "figures": trained.figures,
        "command": "python -m experiments.digits --stage=pretrain",
    }
    if parallel.is_main():
        weights.save(workdir.weights, trained.params, metadata)
    print(f"{trained.figures}, {time.monotonic() - start:.0f} s: {workdir.weights}")


if __name__ == "__main__":
    interrupt.launch(main)
