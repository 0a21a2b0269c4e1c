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

from experiments.job.config import CHECKPOINTS, JobConfig, ModelConfig, RunConfig
from experiments.run import cli, session
from experiments.run.config import Hosts, changed, json_object, option

if TYPE_CHECKING:
    from bns_jax import Problem


@dataclasses.dataclass(frozen=True)
class CheckpointConfig(JobConfig):
    """The main job on a published checkpoint."""

    model: str = changed(ModelConfig, "model", "adm64")
    shard_weights: bool = changed(Hosts, "shard_weights", True)
    nfe: tuple[int, ...] = changed(RunConfig, "nfe", (8, 16))
    chunk: int = changed(JobConfig, "chunk", 64)
    stage: str = option(
        "all",
        '"all" is estimate, pairs, distill and evaluate.',
        choices=("all", "estimate", "pairs", "distill", "evaluate"),
        shapes=False,
    )
    config: str = option(
        "",
        "Entries of the architecture that differ from the published one, as JSON, such "
        'as {"null_label": true} for an ADM trained with label dropout.',
    )
    dtype: str = option(
        "float32",
        "Of the network's products; norms, softmaxes and embeddings stay in float32.",
        choices=("float32", "bfloat16"),
    )
    remat: bool = option(
        False, "Recompute each block in the backward pass: less memory, more time."
    )
    labels: tuple[int, ...] = option((), "Classes to sample; all of them if empty.")
    guided_channels: int = option(
        0,
        "Guide so many leading channels only; 0 is all. The published figures of DiT "
        "and SiT guide 3 of the 4 channels of their latents.",
        least=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # Over as many lines as you like; a flag file has one for it.
        entries = json_object(self.config)
        object.__setattr__(self, "config", json.dumps(entries) if entries else "")
        if self.model not in CHECKPOINTS:
            raise ValueError(
                f"--model must be one of {', '.join(CHECKPOINTS)}, got {self.model}"
            )


def main(config: CheckpointConfig) -> None:
    """Runs the stages that --stage names."""
    from experiments.job import main_job
    from experiments.run.workdir import Workdir

    workdir = Workdir(config.folder())
    with session.running(config):
        model = _model(config)
        main_job.check(model, config)
        is_run = config.stage != "estimate"
        if is_run:
            workdir.claim(config.shaping(), config.free())
        _introduce(model, config)
        if is_run:
            main_job.run(model, config, workdir, config.stage)


def _model(config: CheckpointConfig) -> Problem:
    from experiments.models import catalogue

    model = catalogue.checkpoint(
        config.model,
        config.guidance,
        config.weights,
        config=json_object(config.config),
        dtype=config.dtype,
        remat=config.remat,
        labels=config.labels,
        guided_channels=config.guided_channels or None,
        zeros=config.stage == "estimate",
    )
    return model.on(session.mesh(config), config.shard_weights)


def _introduce(model: Problem, config: CheckpointConfig) -> None:
    """Says what the model is, and what the run will take."""
    from experiments.job.estimate import estimate

    if model.guidance and not model.facts["guidance_was_trained"]:
        print(
            f"note: {model.name} was trained with a label for every picture. Guidance "
            "goes away from its answer to no label at all, which it was never taught."
        )
    print(estimate(model, config), flush=True)


if __name__ == "__main__":
    cli.launch(main, CheckpointConfig)
