"""The main job on real images: distils solvers for a flow model of handwritten digits.

    python -m experiments.digits --workdir=runs/digits

makes ground-truth pairs, distils BNS solvers, and compares them with the solvers that
people use today. Every stage continues where it stopped. The network's weights ship
with the project; `--stage=pretrain` trains them anew into the workdir, where the other
stages then find them.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import TYPE_CHECKING

from absl import app, flags

from experiments import cli

if TYPE_CHECKING:
    from bns_jax.distill import Optimizer
    from experiments.main_job import Model, Settings
    from experiments.workdir import Workdir

_STAGES = ("all", "pretrain", "pairs", "distill", "evaluate")
_FREE_FLAGS = ("nfe", "solvers")

_STAGE = flags.DEFINE_enum(
    "stage", "all", _STAGES, '"all" is pairs, distill and evaluate.'
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/digits", "Folder of the run; holds everything it writes."
)
_INIT = flags.DEFINE_string(
    "init",
    "greedy",
    'Where the search starts: at a solver by name, "greedy" (fitted row by row to the '
    'true trajectories), "previous" (the result for the next smaller NFE) or "best" '
    "(the common solver that validates best).",
)
_OPTIMIZER = flags.DEFINE_enum(
    "optimizer",
    "gauss_newton",
    ("gauss_newton", "adam"),
    "How it goes on; adam is Algorithm 2.",
)
_ITERATIONS = flags.DEFINE_integer(
    "iterations", 0, "Steps; 0 leaves them to the optimizer.", lower_bound=0
)
_BATCH = flags.DEFINE_integer(
    "batch", 0, "Pairs per step; 0 leaves them to the optimizer.", lower_bound=0
)
_EVALUATE_EVERY = flags.DEFINE_integer(
    "evaluate_every",
    0,
    "Steps between validations; 0 leaves them to the optimizer.",
    lower_bound=0,
)
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", 5e-4, "Adam's, at the start.", lower_bound=0.0
)
_SCHEDULE = flags.DEFINE_enum(
    "schedule", "polynomial", ("polynomial", "cosine"), "Decay of Adam's learning rate."
)
_SIGMA_0 = flags.DEFINE_float(
    "sigma_0", 1.0, "Preconditioning: standard deviation of the source (eq. 14)."
)
_TRAIN_PAIRS = flags.DEFINE_integer("train_pairs", 520, "To fit.", lower_bound=1)
_VALIDATION_PAIRS = flags.DEFINE_integer(
    "validation_pairs", 256, "To choose the iteration.", lower_bound=1
)
_PRETRAIN_ITERATIONS = flags.DEFINE_integer(
    "pretrain_iterations", 8_000, "Steps of --stage=pretrain.", lower_bound=1
)

_PRETRAIN_FLAGS = (_PRETRAIN_ITERATIONS, cli.SEED)
_RUN_FLAGS = (
    cli.MODEL,
    cli.WEIGHTS,
    cli.GUIDANCE,
    cli.NFE,
    cli.SOLVERS,
    _INIT,
    _OPTIMIZER,
    _ITERATIONS,
    _BATCH,
    _EVALUATE_EVERY,
    _LEARNING_RATE,
    _SCHEDULE,
    _SIGMA_0,
    _TRAIN_PAIRS,
    _VALIDATION_PAIRS,
    cli.TEST_PAIRS,
    cli.RTOL,
    cli.ATOL,
    cli.SEED,
)


@flags.multi_flags_validator(
    ["batch", "train_pairs"], message="--batch must not exceed --train_pairs"
)
def _batch_fits(values: dict[str, int]) -> bool:
    return values["batch"] <= values["train_pairs"]


@flags.multi_flags_validator(
    ["learning_rate", "sigma_0"],
    message="--learning_rate and --sigma_0 must be positive",
)
def _are_positive(values: dict[str, float]) -> bool:
    return all(value > 0 for value in values.values())


def main(argv: list[str]) -> None:
    """Runs the stages that --stage names."""
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    from experiments import main_job, models
    from experiments.progress import quiet
    from experiments.workdir import Workdir

    quiet()
    workdir = Workdir(_WORKDIR.value)
    try:
        if _STAGE.value == "pretrain":
            workdir.claim(cli.serialize(_PRETRAIN_FLAGS))
            _pretrain(workdir)
        else:
            weights = cli.WEIGHTS.value
            if not weights and workdir.weights.exists():
                weights = workdir.weights
            model = models.load(cli.MODEL.value, cli.GUIDANCE.value, weights or None)
            settings = _settings()
            main_job.check_start(model, settings)
            workdir.claim(cli.serialize(_RUN_FLAGS), _FREE_FLAGS)
            _run(model, settings, workdir)
    except ValueError as error:
        sys.exit(f"error: {error}")


def _run(model: Model, settings: Settings, workdir: Workdir) -> None:
    """Pairs, then distillation, then evaluation, as far as --stage asks."""
    from experiments import main_job, report, truth

    start = time.monotonic()
    pairs = truth.make_pairs(model, settings.counts, settings.accuracy, workdir)
    print(f"pairs are ready after {time.monotonic() - start:.0f} s", flush=True)
    if _STAGE.value == "pairs":
        return
    distilled = main_job.distil_all(model, settings, workdir, pairs)
    if _STAGE.value == "distill":
        return
    rows = main_job.evaluate_all(model, settings, workdir, pairs["test"], distilled)
    print(f"\n{report.table(rows)}\n")
    print(
        f"forwards count calls of the guided field, {model.network_calls} network "
        f"evaluations each; ground truth took {pairs['test'].nfe.mean():.0f} NFE."
    )
    print(f"finished after {time.monotonic() - start:.0f} s; in {workdir.root}:")
    for nfe in settings.nfe:
        print(f"  solvers/bns_{nfe}.json   bns_jax.interchange.load(path)")
    print("  table.csv  psnr_vs_nfe.png  samples.png  history/")


def _pretrain(workdir: Workdir) -> None:
    """Trains the network and writes its weights into the workdir."""
    from bns_jax import schedulers
    from bns_jax.models import UNetConfig, weights
    from experiments.data import digits
    from experiments.pretrain import Recipe, pretrain
    from experiments.progress import Progress

    config = UNetConfig()
    recipe = Recipe(iterations=_PRETRAIN_ITERATIONS.value, seed=cli.SEED.value)
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
    weights.save(workdir.weights, trained.params, metadata)
    print(f"{trained.figures}, {time.monotonic() - start:.0f} s: {workdir.weights}")


def _optimizer() -> Optimizer:
    from bns_jax import distill

    if _OPTIMIZER.value == "adam":
        return distill.adam(_LEARNING_RATE.value, _SCHEDULE.value)  # type: ignore[arg-type]
    return distill.gauss_newton()


def _settings() -> Settings:
    from experiments import baselines
    from experiments.main_job import Settings
    from experiments.truth import Accuracy

    return Settings(
        nfe=cli.parse_nfe(cli.NFE.value),
        solvers=baselines.expand(cli.SOLVERS.value),
        init=_INIT.value,
        counts={
            "train": _TRAIN_PAIRS.value,
            "validation": _VALIDATION_PAIRS.value,
            "test": cli.TEST_PAIRS.value,
        },
        accuracy=Accuracy(cli.RTOL.value, cli.ATOL.value, cli.SEED.value),
        sigma_0=_SIGMA_0.value,
        optimizer=_optimizer(),
        iterations=_ITERATIONS.value or None,
        batch=_BATCH.value or None,
        evaluate_every=_EVALUATE_EVERY.value or None,
    )


if __name__ == "__main__":
    app.run(main)
