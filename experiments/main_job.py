"""The main job on any model: pairs, distillation, evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bns_jax import distill, families, ground_truth, interchange, ns
from bns_jax.distill import Distilled
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs
from bns_jax.schedulers import Scheduler
from bns_jax.typing import Sample, VelocityField
from experiments import baselines, report
from experiments.progress import Progress
from experiments.workdir import Workdir, write_csv

BEST = "best"
_SHOWN_SAMPLES = 16


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to sample from.

    Attributes:
      name: for titles and files.
      field: its guided velocity field.
      scheduler: the path that it was trained on.
      draw: draw(count, rng) -> (x0, args): noise and conditioning.
      guidance: the scale w.
      facts: JSON values that tell it from other models.
    """

    name: str
    field: VelocityField
    scheduler: Scheduler
    draw: Callable[[int, np.random.Generator], tuple[Sample, tuple[Any, ...]]]
    guidance: float
    facts: dict[str, Any]

    @property
    def network_calls(self) -> int:
        """Network evaluations per call of the field: two under guidance."""
        return 1 if self.guidance == 0 else 2


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the flags say.

    Attributes:
      nfe: numbers of evaluations to distil for.
      init: the baseline to start from; "best" takes the one of the best validation.
      counts: pairs of each split.
      rtol: of the ground truth.
      atol: likewise.
      sigma_0: preconditioning (eq. 14).
      learning_rate: of Adam.
      schedule: its decay.
      iterations: of Algorithm 2.
      batch: pairs per step.
      evaluate_every: steps between validations.
      seed: of everything.
    """

    nfe: tuple[int, ...]
    init: str
    counts: dict[str, int]
    rtol: float
    atol: float
    sigma_0: float
    learning_rate: float
    schedule: str
    iterations: int
    batch: int
    evaluate_every: int
    seed: int


def check_start(model: Model, settings: Settings) -> None:
    """Checks that the solver to start from exists, before any work.

    Raises:
      ValueError: naming those that do, if it does not for one of the NFE.
    """
    for nfe in settings.nfe:
        built = baselines.build(nfe, model.scheduler)
        if settings.init not in (BEST, *built):
            raise ValueError(
                f"--init={settings.init} does not exist at {nfe} evaluations; there "
                f"are {', '.join(built)}"
            )


def make_pairs(model: Model, settings: Settings, workdir: Workdir) -> dict[str, Pairs]:
    """Ground truth for training, validation and test; what is there is read."""
    made = {}
    for index, (split, count) in enumerate(settings.counts.items()):
        x0, args = model.draw(count, np.random.default_rng((settings.seed, index)))
        with Progress(f"pairs/{split}", "pair") as progress:
            made[split] = ground_truth.pairs(
                model.field,
                x0,
                *args,
                rtol=settings.rtol,
                atol=settings.atol,
                directory=workdir.pairs(split),
                fingerprint=model.facts | {"seed": settings.seed},
                progress=progress,
            )
    return made


def distil_all(
    model: Model, settings: Settings, workdir: Workdir, pairs: dict[str, Pairs]
) -> dict[int, Distilled]:
    """One BNS solver per number of evaluations; finished ones are read."""
    distilled = {}
    for nfe in settings.nfe:
        name = f"{report.BESPOKE}_{nfe}"
        start_name, start = _start(model, settings, pairs["validation"], nfe)
        family = families.bns(start)
        if settings.sigma_0 != 1.0:
            family = families.preconditioned(family, model.scheduler, settings.sigma_0)
        optimizer = distill.adam(settings.learning_rate, settings.schedule)  # type: ignore[arg-type]
        with Progress(f"distill/{name}", "step") as progress:
            fitted = distill.fit(
                family,
                model.field,
                pairs["train"],
                pairs["validation"],
                optimizer,
                batch=settings.batch,
                iterations=settings.iterations,
                evaluate_every=settings.evaluate_every,
                seed=settings.seed,
                checkpoint=workdir.checkpoint(name),
                progress=progress,
            )
        _write(model, workdir, name, start_name, fitted)
        distilled[nfe] = fitted
    return distilled


def evaluate_all(
    model: Model,
    settings: Settings,
    workdir: Workdir,
    pairs: dict[str, Pairs],
    distilled: dict[int, Distilled],
) -> list[report.Row]:
    """Every solver on the test pairs: a table, a plot, and samples."""
    rows: list[report.Row] = []
    runners_up: dict[int, tuple[str, NSParams]] = {}
    built = {nfe: baselines.build(nfe, model.scheduler) for nfe in settings.nfe}
    total = sum(len(solvers) + 1 for solvers in built.values())
    with Progress("evaluate", "solver") as progress:

        def score(params: NSParams) -> float:
            value = np.mean(distill.evaluate(params, model.field, pairs["test"]))
            return float(value)

        for nfe in settings.nfe:
            others = []
            for name, params in built[nfe].items():
                others.append(report.Row(name, nfe, score(params)))
                progress(len(rows) + len(others), total, f"{name} {nfe}")
            best = max(others, key=lambda row: row.psnr_db)
            runners_up[nfe] = best.solver, built[nfe][best.solver]
            fitted = distilled[nfe]
            psnr, seconds = score(fitted.params), fitted.history[-1].seconds
            gain = psnr - best.psnr_db
            bespoke = report.Row(
                report.BESPOKE, nfe, psnr, gain, fitted.forwards, seconds
            )
            rows += [*others, bespoke]
            progress(len(rows), total, f"{report.BESPOKE} {nfe}")
    cells = [row.cells() for row in rows]
    write_csv(workdir.root / "table.csv", report.Row._fields, cells)
    title = f"{model.name}, guidance {model.guidance:g}"
    report.plot_psnr(rows, workdir.root / "psnr_vs_nfe.png", title)
    _show_samples(model, settings, workdir, pairs["test"], distilled, runners_up)
    return rows


def _start(
    model: Model, settings: Settings, validation: Pairs, nfe: int
) -> tuple[str, NSParams]:
    """The solver that the search begins at."""
    built = baselines.build(nfe, model.scheduler)
    if settings.init != BEST:
        return settings.init, built[settings.init]
    scores = {
        name: float(np.mean(distill.evaluate(params, model.field, validation)))
        for name, params in built.items()
    }
    best = max(scores, key=lambda name: scores[name])
    return best, built[best]


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
    model: Model,
    settings: Settings,
    workdir: Workdir,
    test: Pairs,
    distilled: dict[int, Distilled],
    runners_up: dict[int, tuple[str, NSParams]],
) -> None:
    """The same noise through ground truth, BNS and the runner-up."""
    nfe = min(settings.nfe)
    name, runner_up = runners_up[nfe]
    x0, x1, args = jax.tree.map(
        lambda leaf: leaf[:_SHOWN_SAMPLES], (test.x0, test.x1, test.args)
    )

    def images(params: NSParams) -> np.ndarray:
        return np.asarray(ns.sample(params, model.field, x0, *args))

    truth = f"ground truth\n(Dopri5, {np.mean(test.nfe):.0f} NFE)"
    sheet = {
        truth: np.asarray(x1),
        f"BNS, {nfe} NFE": images(distilled[nfe].params),
        f"{name}, {nfe} NFE": images(runner_up),
    }
    title = f"{model.name}, guidance {model.guidance:g}: the same noise in each column"
    report.plot_samples(sheet, workdir.root / "samples.png", title, truth)
