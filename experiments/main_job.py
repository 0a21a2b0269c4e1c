"""The main job on any model: pairs, distillation, evaluation."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from bns_jax import distill, families, interchange, ns
from bns_jax.distill import Distilled, Optimizer
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs
from experiments import baselines, comparison, report
from experiments.models import Model
from experiments.progress import Progress
from experiments.truth import Accuracy
from experiments.workdir import Workdir, write_csv

GREEDY, PREVIOUS, BEST = "greedy", "previous", "best"
STARTS = (GREEDY, PREVIOUS, BEST)
"""Starts that are no solver's name."""

_SHOWN_SAMPLES = 16


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the flags say.

    Attributes:
      nfe: numbers of evaluations to distil for.
      solvers: names of those to compare with.
      init: where the search starts: at a solver's name, "greedy" (fitted row by row),
        "previous" (the result at the next smaller NFE) or "best" (the common solver
        that validates best).
      counts: pairs of each split.
      accuracy: of the pairs.
      sigma_0: preconditioning (eq. 14).
      optimizer: how it goes on.
      iterations: its steps; its own default if None, and so for the next two.
      batch: pairs per step.
      evaluate_every: steps between validations.
    """

    nfe: tuple[int, ...]
    solvers: tuple[str, ...]
    init: str
    counts: dict[str, int]
    accuracy: Accuracy
    sigma_0: float
    optimizer: Optimizer
    iterations: int | None = None
    batch: int | None = None
    evaluate_every: int | None = None


def check_start(model: Model, settings: Settings) -> None:
    """Checks that the solver to start from exists, before any work.

    Raises:
      ValueError: naming those that do, if it does not for one of the NFE.
    """
    if settings.init in STARTS:
        return
    (name,) = baselines.expand([settings.init])
    for nfe in settings.nfe:
        if not baselines.build([name], nfe, model.scheduler):
            there = baselines.build(baselines.ALL, nfe, model.scheduler)
            raise ValueError(
                f"--init={name} does not exist at {nfe} evaluations; there are "
                f"{', '.join(there)}"
            )


def distil_all(
    model: Model, settings: Settings, workdir: Workdir, pairs: dict[str, Pairs]
) -> dict[int, Distilled]:
    """One BNS solver per number of evaluations; finished ones are read."""
    distilled: dict[int, Distilled] = {}
    for nfe in settings.nfe:
        name = f"{report.BESPOKE}_{nfe}"
        previous = distilled[max(distilled)].params if distilled else None
        start_name, start = _start(model, settings, pairs, nfe, previous)
        family = families.bns(start)
        if settings.sigma_0 != 1.0:
            family = families.preconditioned(family, model.scheduler, settings.sigma_0)
        with Progress(f"distill/{name}", "step") as progress:
            distilled[nfe] = distill.fit(
                family,
                model.field,
                pairs["train"],
                pairs["validation"],
                settings.optimizer,
                batch=settings.batch,
                iterations=settings.iterations,
                evaluate_every=settings.evaluate_every,
                seed=settings.accuracy.seed,
                checkpoint=workdir.checkpoint(name),
                progress=progress,
            )
        _write(model, workdir, name, start_name, distilled[nfe])
    return distilled


def evaluate_all(
    model: Model,
    settings: Settings,
    workdir: Workdir,
    test: Pairs,
    distilled: dict[int, Distilled],
) -> list[report.Row]:
    """Every solver on the test pairs: a table, a plot, and samples."""
    built = {
        nfe: baselines.build(settings.solvers, nfe, model.scheduler)
        for nfe in settings.nfe
    }
    bespoke = {nfe: {report.BESPOKE: fit.params} for nfe, fit in distilled.items()}
    others = comparison.compare(model, built, test)
    rows = list(others)
    for row in comparison.compare(model, bespoke, test):
        fitted = distilled[row.nfe]
        rows.append(
            row._replace(
                gain_db=row.psnr_db - comparison.best(others, row.nfe).psnr_db,
                forwards=fitted.forwards,
                seconds=fitted.history[-1].seconds,
            )
        )
    comparison.write(rows, model, workdir)
    nfe = min(settings.nfe)
    runner_up = comparison.best(others, nfe).solver
    shown = {"BNS": distilled[nfe].params, runner_up: built[nfe][runner_up]}
    _show_samples(model, shown, test, workdir)
    return rows


def _start(
    model: Model,
    settings: Settings,
    pairs: dict[str, Pairs],
    nfe: int,
    previous: NSParams | None,
) -> tuple[str, NSParams]:
    """The solver that the search begins at, and what it is called."""
    init = settings.init
    if init == PREVIOUS and previous is not None:
        return f"bns_{len(previous.a)}", ns.extend(previous, nfe)
    if init in (GREEDY, PREVIOUS):
        return GREEDY, distill.greedy(model.field, pairs["train"], nfe)
    if init == BEST:
        built = baselines.build(baselines.COMMON, nfe, model.scheduler)
        rows = comparison.compare(model, {nfe: built}, pairs["validation"])
        init = comparison.best(rows, nfe).solver
    return init, baselines.build([init], nfe, model.scheduler)[init]


def _write(
    model: Model, workdir: Workdir, name: str, start: str, fitted: Distilled
) -> None:
    """The solver file and the history of a finished run."""
    metadata = model.facts | {
        "start": start,
        "validation_psnr_db": round(fitted.val_metric, 3),
        "iteration": fitted.iteration,
        "forwards": fitted.forwards,
    }
    path = workdir.solver(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    interchange.save(path, fitted.params, metadata)
    write_csv(workdir.history(name), distill.HistoryRow._fields, fitted.history)


def _show_samples(
    model: Model, solvers: dict[str, NSParams], test: Pairs, workdir: Workdir
) -> None:
    """The same noise through ground truth and each solver."""
    kept = (test.x0, test.x1, test.args)
    x0, x1, args = jax.tree.map(lambda leaf: leaf[:_SHOWN_SAMPLES], kept)
    truth = f"ground truth\n(Dopri5, {np.mean(test.nfe):.0f} NFE)"
    sheet = {truth: np.asarray(x1)}
    for name, params in solvers.items():
        sheet[f"{name}, {len(params.a)} NFE"] = np.asarray(
            ns.sample(params, model.field, x0, *args)
        )
    title = f"{model.title}: the same noise in each column"
    report.plot_samples(sheet, workdir.root / "samples.png", title, truth)
