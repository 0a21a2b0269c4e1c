"""Flags of the main job, whatever the model, and the settings they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from experiments.run import cli

if TYPE_CHECKING:
    from bns_jax.distill import Optimizer
    from experiments.job.main_job import Settings

FREE_FLAGS = ("nfe", "solvers")
"""Those that may change between calls on one workdir."""

SOLVERS = cli.define_solvers()
INIT = flags.DEFINE_string(
    "init",
    "greedy",
    "Where the search starts: at a solver by name; greedy: fitted row by row to the "
    "true trajectories; previous: the result for the next smaller NFE, extended, or "
    "greedy for the smallest; best: the common solver that validates best.",
)
OPTIMIZER = flags.DEFINE_enum(
    "optimizer",
    "gauss_newton",
    ("gauss_newton", "adam"),
    "What the search goes on by; adam is the paper's Algorithm 2.",
)
ITERATIONS = flags.DEFINE_integer(
    "iterations", 0, "Steps; 0 leaves them to the optimizer.", lower_bound=0
)
BATCH = flags.DEFINE_integer(
    "batch", 0, "Pairs per step; 0 leaves that to the optimizer.", lower_bound=0
)
EVALUATE_EVERY = flags.DEFINE_integer(
    "evaluate_every",
    0,
    "Steps between validations; 0 leaves them to the optimizer.",
    lower_bound=0,
)
LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", 5e-4, "Learning rate of Adam at the start.", lower_bound=0.0
)
SCHEDULE = flags.DEFINE_enum(
    "schedule", "polynomial", ("polynomial", "cosine"), "Decay of Adam's learning rate."
)
SIGMA_0 = flags.DEFINE_float(
    "sigma_0",
    1.0,
    "Preconditioning: by how much the noise of the path is enlarged while the solver "
    "is fitted (eq. 14); 1 changes nothing.",
)
TRAIN_PAIRS = flags.DEFINE_integer(
    "train_pairs", 520, "Pairs that solvers are fitted to.", lower_bound=1
)
VALIDATION_PAIRS = flags.DEFINE_integer(
    "validation_pairs", 256, "Pairs that choose the best step.", lower_bound=1
)

RUN_FLAGS = (
    cli.MODEL,
    cli.WEIGHTS,
    cli.GUIDANCE,
    cli.NFE,
    SOLVERS,
    INIT,
    OPTIMIZER,
    ITERATIONS,
    BATCH,
    EVALUATE_EVERY,
    LEARNING_RATE,
    SCHEDULE,
    SIGMA_0,
    TRAIN_PAIRS,
    VALIDATION_PAIRS,
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


def settings() -> Settings:
    """What the flags say."""
    from bns_jax import solvers as library
    from experiments.job.main_job import Settings
    from experiments.job.truth import Accuracy

    return Settings(
        nfe=cli.parse_nfe(cli.NFE.value),
        solvers=library.expand(SOLVERS.value),
        init=INIT.value,
        counts={
            "train": TRAIN_PAIRS.value,
            "validation": VALIDATION_PAIRS.value,
            "test": cli.TEST_PAIRS.value,
        },
        accuracy=Accuracy(cli.RTOL.value, cli.ATOL.value, cli.SEED.value),
        sigma_0=SIGMA_0.value,
        optimizer=_optimizer(),
    )


def _optimizer() -> Optimizer:
    from bns_jax import distill

    if OPTIMIZER.value == "adam":
        optimizer = distill.adam(LEARNING_RATE.value, SCHEDULE.value)  # type: ignore[arg-type]
    else:
        optimizer = distill.gauss_newton()
    asked = {flag.name: flag.value for flag in (ITERATIONS, BATCH, EVALUATE_EVERY)}
    return optimizer.replace(**{name: value for name, value in asked.items() if value})
