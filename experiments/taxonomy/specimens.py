"""Solvers laid out to be classified: where their numbers tell most."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import numpy as np
from etils import epath

from bns_jax import grids, interchange, ns, schedulers, solvers
from bns_jax.ns import NSParams
from bns_jax.scale_time import between, under
from bns_jax.solvers.catalogue import look_up
from experiments.taxonomy import classify
from experiments.taxonomy.agreement import SCHEDULERS

SCHEDULER = SCHEDULERS["vp"]
"""Its conditional paths are no straight lines, so no two regions coincide."""

# Inside (0, 1) all steps are of full order.
_START, _END = 0.1, 0.9
# Twelve evaluations make 12, 6, 4 or 3 steps; EDM's Heun takes an odd number.
_NFES = (12, 13)


COLUMNS = (
    "region",
    "solver",
    "nfe",
    "memory",
    "stages",
    "straight",
    "steady",
    "kind",
    "agrees",
)
"""What `Specimen.cells` says."""


class Specimen(NamedTuple):
    """A classified solver.

    Attributes:
      name: of the solver.
      shown: what its numbers show.
      steady: the clocks in whose equal steps it does the same at each step.
      kind: what the catalogue says it is; empty if it is not from there.
    """

    name: str
    shown: classify.Shown
    steady: tuple[str, ...] = ()
    kind: str = ""

    @property
    def region(self) -> str:
        """The smallest region of Figure 3 that holds it."""
        return classify.region(self.shown)

    @property
    def agrees(self) -> bool:
        """Whether its numbers show what the catalogue says."""
        return not self.kind or self.shown.is_of(self.kind)

    def cells(self) -> list[str]:
        """As text, the region first."""
        return [
            self.region,
            self.name,
            str(self.shown.nfe),
            str(self.shown.memory),
            str(self.shown.stages) if self.shown.one_step else "-",
            " ".join(self.shown.straight) or "-",
            " ".join(self.steady) or "-",
            self.kind or "-",
            ("yes" if self.agrees else "no") if self.kind else "-",
        ]


def of_catalogue(name: str) -> Specimen:
    """A solver of the catalogue, on the grid of each clock."""
    kind, steady = look_up(name).kind, []
    for label, clock in classify.clocks(SCHEDULER).items():
        params = _build(name, clock.uniform(_START, _END))
        if classify.is_steady(params, clock, _END):
            steady.append(label)
    shown = classify.show(params, SCHEDULER, _END)
    return Specimen(name, shown, tuple(steady), kind)


def _build(name: str, grid: grids.Grid) -> NSParams:
    """The solver at the first number of evaluations that it exists for.

    With every step of its full order: what is looked for is the method.
    """
    *others, last = _NFES
    options = look_up(name).full_order
    for nfe in others:
        with contextlib.suppress(ValueError):
            return solvers.build(name, nfe, SCHEDULER, grid, **options)
    return solvers.build(name, last, SCHEDULER, grid, **options)


def under_cosine() -> list[Specimen]:
    """Generic solvers under a change of scheduler that straightens no path (eq. 8)."""
    change, nfe = between(SCHEDULER, schedulers.cosine()), _NFES[0]
    grid = grids.uniform(_START, _END)
    generic = {
        name: solvers.algorithm(name, nfe, SCHEDULER, grid)
        for name in ("midpoint", "ab2")
    }
    end = float(change.t(_END))
    made = []
    for name, algorithm in generic.items():
        params = ns.from_solver(under(algorithm, change, _START, _END), nfe)
        shown = classify.show(params, SCHEDULER, end)
        made.append(Specimen(f"{name} under cosine", shown))
    return made


def random_member(seed: int = 0) -> Specimen:
    """Any member of the family."""
    rng, nfe = np.random.default_rng(seed), _NFES[0]
    params = NSParams(
        np.sort(rng.uniform(size=nfe)),
        rng.normal(1.0, 0.3, size=nfe),
        np.tril(rng.normal(size=(nfe, nfe))) / nfe,
    )
    return Specimen("random member", classify.show(params, SCHEDULER))


def of_file(path: epath.PathLike, scheduler: str) -> Specimen:
    """A solver file, such as distillation writes.

    Args:
      path: the file.
      scheduler: a name of `agreement.SCHEDULERS`, the path of its model.

    Raises:
      ValueError: if the scheduler is unknown, or the file holds no solver.
    """
    if scheduler not in SCHEDULERS:
        known = ", ".join(SCHEDULERS)
        raise ValueError(f"no scheduler is called {scheduler!r}; there are {known}")
    shown = classify.show(interchange.load(path), SCHEDULERS[scheduler])
    return Specimen(epath.Path(path).stem, shown)
