"""The main job on a published checkpoint: from its weights file to solver files.

    python -m experiments.distill_checkpoint --model=adm64 --weights=PATH --nfe=8,16

makes ground-truth pairs, distils BNS solvers, compares them with the solvers that
people use, and draws samples. It says first how long that will take and how much
memory; `--stage=estimate` stops there, and needs no weights. Every stage continues
where it stopped. Weights are read without running code of their file.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from absl import app, flags

from experiments.job import job_flags
from experiments.run import cli, interrupt, session

if TYPE_CHECKING:
    from experiments.job.main_job import Settings
    from experiments.models.models import Model

_STAGES = ("all", "estimate", "pairs", "distill", "evaluate")

flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(job_flags)
_STAGE = flags.DEFINE_enum(
    "stage", "all", _STAGES, '"all" is estimate, pairs, distill and evaluate.'
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run; runs/MODEL if left out."
)
_CONFIG = flags.DEFINE(
    cli.JsonObject(),
    "config",
    "",
    "Entries of the architecture that differ from the published one, as JSON, such as "
    '{"null_label": true} for an ADM trained with label dropout.',
    serializer=flags.ArgumentSerializer(),
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    "float32",
    ("float32", "bfloat16"),
    "Of the network's products; norms, softmaxes and embeddings stay in float32.",
)
_REMAT = flags.DEFINE_bool(
    "remat", False, "Recompute each block in the backward pass: less memory, more time."
)
_LABELS = flags.DEFINE_list("labels", "", "Classes to sample; all of them if empty.")
_GUIDED_CHANNELS = flags.DEFINE_integer(
    "guided_channels",
    0,
    "Guide so many leading channels only; 0 is all. The published figures of DiT and "
    "SiT guide 3 of the 4 channels of their latents.",
    lower_bound=0,
)
_CHUNK = flags.DEFINE_integer(
    "chunk", 64, "Pairs to solve at a time; fewer take less memory.", lower_bound=1
)
_MICROBATCH = flags.DEFINE_integer(
    "microbatch",
    0,
    "Pairs to differentiate at a time; divides the batch. 0 leaves it to the program: "
    "all of it, on a CPU 26 per device where that divides it.",
    lower_bound=0,
)
flags.set_default(cli.MODEL, "adm64")
flags.set_default(cli.SHARD_WEIGHTS, True)
flags.set_default(cli.NFE, ["8", "16"])

_RUN_FLAGS = (
    *job_flags.RUN_FLAGS,
    _CONFIG,
    _DTYPE,
    _REMAT,
    _LABELS,
    _GUIDED_CHANNELS,
    _CHUNK,
)


@flags.validator(cli.MODEL.name, message=f"must be one of {cli.CHECKPOINTS}")
def _is_published(name: str) -> bool:
    return name in cli.CHECKPOINTS


@flags.validator(_LABELS.name, message="must be integers, such as 207,360")
def _are_integers(values: list[str]) -> bool:
    return all(value.strip().isdecimal() for value in values)


def main(argv: list[str]) -> None:
    """Runs the stages that --stage names."""
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    from experiments.job import main_job
    from experiments.run.workdir import Workdir

    workdir = Workdir(_WORKDIR.value or f"runs/{cli.MODEL.value}")
    with session.running():
        model, settings = _model(), _settings()
        main_job.check(model, settings)
        is_run = _STAGE.value != "estimate"
        if is_run:
            workdir.claim(cli.serialize(_RUN_FLAGS), job_flags.FREE_FLAGS)
        _introduce(model, settings)
        if is_run:
            main_job.run(model, settings, workdir, _STAGE.value)


def _model() -> Model:
    from experiments.models import models

    model = models.checkpoint(
        cli.MODEL.value,
        cli.GUIDANCE.value,
        cli.WEIGHTS.value,
        config=json.loads(_CONFIG.value or "{}"),
        dtype=_DTYPE.value,
        remat=_REMAT.value,
        labels=[int(label) for label in _LABELS.value],
        guided_channels=_GUIDED_CHANNELS.value or None,
        zeros=_STAGE.value == "estimate",
    )
    return model.on(cli.mesh(), cli.SHARD_WEIGHTS.value)


def _settings() -> Settings:
    settings = job_flags.settings()
    optimizer = settings.optimizer.replace(microbatch=_MICROBATCH.value or None)
    return dataclasses.replace(settings, chunk=_CHUNK.value, optimizer=optimizer)


def _introduce(model: Model, settings: Settings) -> None:
    """Says what the model is, and what the run will take."""
    from experiments.job.estimate import estimate

    if model.guidance and not model.facts["guidance_was_trained"]:
        print(
            f"note: {model.name} was trained with a label for every picture. Guidance "
            "goes away from its answer to no label at all, which it was never taught."
        )
    print(estimate(model, settings), flush=True)


if __name__ == "__main__":
    interrupt.launch(main)
