"""Ground-truth pairs of a model, in a workdir."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bns_jax import ground_truth
from bns_jax.pairs import Pairs
from experiments.models.models import Model
from experiments.run.progress import Progress
from experiments.run.workdir import Workdir

SPLITS = ("train", "validation", "test")


class Accuracy(NamedTuple):
    """Of the reference solve, and the seed of what it starts from."""

    rtol: float
    atol: float
    seed: int


def make_pairs(
    model: Model,
    counts: Mapping[str, int],
    accuracy: Accuracy,
    workdir: Workdir,
    chunk: int | None = None,
) -> dict[str, Pairs]:
    """Pairs of some splits; those that the workdir has are read.

    Args:
      model: to sample from.
      counts: how many pairs of which of `SPLITS`, which draw independent noise.
      accuracy: of the solve.
      workdir: where they are kept.
      chunk: how many to solve at once; the library's own default if left out.
    """
    made = {}
    for split, count in counts.items():
        rng = np.random.default_rng((accuracy.seed, SPLITS.index(split)))
        x0, args = model.draw(count, rng)
        with Progress(f"pairs/{split}", "pair") as progress:
            made[split] = ground_truth.pairs(
                model.field,
                x0,
                *args,
                rtol=accuracy.rtol,
                atol=accuracy.atol,
                chunk=chunk,
                directory=workdir.pairs(split),
                fingerprint={"model": model.facts, "seed": accuracy.seed},
                progress=progress,
                mesh=model.mesh,
            )
    return made
