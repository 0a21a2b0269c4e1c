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

if TYPE_CHECKING:
    from experiments.main_job import Model, Settings
    from experiments.workdir import Workdir

_STAGES = ("all", "pretrain", "pairs", "distill", "evaluate")
_FREE_FLAGS = ("nfe",)

_STAGE = flags.DEFINE_enum(
    "stage", "all", _STAGES, '"all" is pairs, distill and evaluate.'
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/digits", "Folder of the run; holds everything it writes."
)
_WEIGHTS = flags.DEFINE_string(
    "weights",
    "",
    "Weights file. If empty: the workdir's own where it was pretrained, else the "
    "shipped one.",
)
_GUIDANCE = flags.DEFINE_float(
    "guidance", 0.2, "Guidance scale w; 0 is unguided.", lower_bound=0.0
)
_NFE = flags.DEFINE_list("nfe", "4,6,8", "Numbers of evaluations to distil for.")
_INIT = flags.DEFINE_string(
    "init", "best", 'Solver to start from, or "best": the best on validation pairs.'
)
_ITERATIONS = flags.DEFINE_integer(
    "iterations", 200, "Steps of Algorithm 2.", lower_bound=1
)
_BATCH = flags.DEFINE_integer("batch", 40, "Pairs per step.", lower_bound=1)
_EVALUATE_EVERY = flags.DEFINE_integer(
    "evaluate_every", 50, "Steps between validations.", lower_bound=1
)
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", 2e-3, "Adam's, at the start.", lower_bound=0.0
)
_SCHEDULE = flags.DEFINE_enum(
    "schedule", "polynomial", ("polynomial", "cosine"), "Decay of the learning rate."
)
_SIGMA_0 = flags.DEFINE_float(
    "sigma_0", 1.0, "Preconditioning: standard deviation of the source (eq. 14)."
)
_TRAIN_PAIRS = flags.DEFINE_integer("train_pairs", 520, "To fit.", lower_bound=1)
_VALIDATION_PAIRS = flags.DEFINE_integer(
    "validation_pairs", 256, "To choose the iteration.", lower_bound=1
)
_TEST_PAIRS = flags.DEFINE_integer("test_pairs", 1024, "To report.", lower_bound=1)
_RTOL = flags.DEFINE_float("rtol", 1e-5, "Of the ground truth.", lower_bound=0.0)
_ATOL = flags.DEFINE_float("atol", 1e-5, "Of the ground truth.", lower_bound=0.0)
_SEED = flags.DEFINE_integer("seed", 0, "Of noise, labels and batches.", lower_bound=0)
_PRETRAIN_ITERATIONS = flags.DEFINE_integer(
    "pretrain_iterations", 8_000, "Steps of --stage=pretrain.", lower_bound=1
)

_PRETRAIN_FLAGS = (_PRETRAIN_ITERATIONS, _SEED)
_RUN_FLAGS = (
    _WEIGHTS,
    _GUIDANCE,
    _NFE,
    _INIT,
    _ITERATIONS,
    _BATCH,
    _EVALUATE_EVERY,
    _LEARNING_RATE,
    _SCHEDULE,
    _SIGMA_0,
    _TRAIN_PAIRS,
    _VALIDATION_PAIRS,
    _TEST_PAIRS,
    _RTOL,
    _ATOL,
    _SEED,
)


def _parse_nfe(values: list[str]) -> tuple[int, ...]:
    return tuple(sorted({int(value) for value in values}))


@flags.validator(_NFE.name, message="must be integers from 1 to 64, such as 4,6,8")
def _nfe_is_valid(values: list[str]) -> bool:
    try:
        return bool(values) and all(1 <= nfe <= 64 for nfe in _parse_nfe(values))
    except ValueError:
        return False


@flags.multi_flags_validator(
    ["batch", "train_pairs"], message="--batch must not exceed --train_pairs"
)
def _batch_fits(values: dict[str, int]) -> bool:
    return values["batch"] <= values["train_pairs"]


@flags.multi_flags_validator(
    ["learning_rate", "sigma_0", "rtol", "atol"], message="must all be positive"
)
def _are_positive(values: dict[str, float]) -> bool:
    return all(value > 0 for value in values.values())


def main(argv: list[str]) -> None:
    """Runs the stages that --stage names."""
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    from experiments import baselines, main_job, models
    from experiments.progress import quiet
    from experiments.workdir import Workdir

    quiet()
    names = [main_job.BEST, *baselines.BASELINES]
    if _INIT.value not in names:
        raise app.UsageError(f"--init={_INIT.value}: expected one of {names}")
    workdir = Workdir(_WORKDIR.value)
    try:
        if _STAGE.value == "pretrain":
            workdir.claim(_values(_PRETRAIN_FLAGS))
            _pretrain(workdir)
        else:
            weights = _WEIGHTS.value
            if not weights and workdir.weights.exists():
                weights = workdir.weights
            model = models.digits(_GUIDANCE.value, weights or None)
            main_job.check_start(model, _settings())
            workdir.claim(_values(_RUN_FLAGS), _FREE_FLAGS)
            _run(model, _settings(), workdir)
    except ValueError as error:
        sys.exit(f"error: {error}")


def _run(model: Model, settings: Settings, workdir: Workdir) -> None:
    """Pairs, then distillation, then evaluation, as far as --stage asks."""
    from experiments import main_job, report

    start = time.monotonic()
    pairs = main_job.make_pairs(model, settings, workdir)
    print(f"pairs are ready after {time.monotonic() - start:.0f} s", flush=True)
    if _STAGE.value == "pairs":
        return
    distilled = main_job.distil_all(model, settings, workdir, pairs)
    if _STAGE.value == "distill":
        return
    rows = main_job.evaluate_all(model, settings, workdir, pairs, distilled)
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
    recipe = Recipe(iterations=_PRETRAIN_ITERATIONS.value, seed=_SEED.value)
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


def _settings() -> Settings:
    from experiments.main_job import Settings

    return Settings(
        nfe=_parse_nfe(_NFE.value),
        init=_INIT.value,
        counts={
            "train": _TRAIN_PAIRS.value,
            "validation": _VALIDATION_PAIRS.value,
            "test": _TEST_PAIRS.value,
        },
        rtol=_RTOL.value,
        atol=_ATOL.value,
        sigma_0=_SIGMA_0.value,
        learning_rate=_LEARNING_RATE.value,
        schedule=_SCHEDULE.value,
        iterations=_ITERATIONS.value,
        batch=_BATCH.value,
        evaluate_every=_EVALUATE_EVERY.value,
        seed=_SEED.value,
    )


def _values(holders: tuple[flags.FlagHolder, ...]) -> dict[str, str]:
    """Flags as a flag file writes them."""
    named = {holder.name: flags.FLAGS[holder.name] for holder in holders}
    return {name: flag.serialize().partition("=")[2] for name, flag in named.items()}


if __name__ == "__main__":
    app.run(main)
