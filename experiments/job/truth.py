"""Ground-truth pairs of a model, in a workdir."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from bns_jax import Problem, accuracy, ground_truth
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
    seeded, made = _seeded(model, config), {}
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


def describe(
    model: Problem,
    config: TruthConfig,
    workdir: Workdir,
    test: Pairs,
    reached_db: Iterable[float],
    chunk: int | None = None,
) -> str:
    """How exact the test pairs are themselves, for below a table.

    Args:
      model: that they are of.
      config: that they were made with.
      workdir: where a few of them are kept, solved again.
      test: the pairs.
      reached_db: what is in the table.
      chunk: how many to solve at once, as in `make_pairs`.

    Returns:
      A line, and one more for each doubt.
    """
    with ProgressBar("pairs/finer", "pair") as progress:
        found = accuracy.measure(
            _seeded(model, config),
            test,
            rtol=config.rtol,
            atol=config.atol,
            chunk=chunk,
            directory=workdir.pairs("finer"),
            report=progress,
        )
    doubts = (f"warning: {doubt}" for doubt in found.doubts(reached_db))
    return "\n".join([str(found), *doubts])


def _seeded(model: Problem, config: TruthConfig) -> Problem:
    """A model whose pairs are told from those of another seed."""
    return dataclasses.replace(model, facts={"model": model.facts, "seed": config.seed})
