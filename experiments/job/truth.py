"""Ground-truth pairs of a model, in a workdir."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from bns_jax import Problem, ground_truth
from bns_jax.pairs import Pairs
from experiments.job.config import TruthConfig
from experiments.run.progress import ProgressBar
from experiments.run.workdir import Workdir

SPLITS = ("train", "validation", "test")


def make_pairs(
    model: Problem,
    config: TruthConfig,
    workdir: Workdir,
    counts: Mapping[str, int] | None = None,
    chunk: int | None = None,
) -> dict[str, Pairs]:
    """Pairs of some splits; those that the workdir has are read.

    Args:
      model: to sample from.
      config: of the solve, and the seed.
      workdir: where they are kept.
      counts: how many pairs of which of `SPLITS`, which draw independent noise; those
        of the configuration if left out.
      chunk: how many to solve at once; the library's own default if left out.
    """
    facts = {"model": model.facts, "seed": config.seed}
    seeded, made = dataclasses.replace(model, facts=facts), {}
    for split, count in (counts or config.counts).items():
        rng = np.random.default_rng((config.seed, SPLITS.index(split)))
        x0, args = model.draw(count, rng)
        with ProgressBar(f"pairs/{split}", "pair") as progress:
            made[split] = ground_truth.pairs(
                seeded,
                x0,
                *args,
                rtol=config.rtol,
                atol=config.atol,
                chunk=chunk,
                directory=workdir.pairs(split),
                report=progress,
            )
    return made
