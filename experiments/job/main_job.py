"""The main job on any model: pairs, distillation, evaluation."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from bns_jax import (
    Problem,
    distill,
    families,
    ns,
    parallel,
    solvers,
)
from bns_jax.distill import Distilled
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs, first
from bns_jax.pytree import on_host
from experiments.job import comparison, optimizers, solver_files, starts, truth
from experiments.job.config import JobConfig
from experiments.report import display, samples
from experiments.report.table import Row, table
from experiments.run import preemption
from experiments.run.progress import ProgressBar
from experiments.run.workdir import Workdir

_SHOWN_SAMPLES = 16


def check(model: Problem, config: JobConfig) -> None:
    """What can be wrong with a configuration, before any work.

    Raises:
      ValueError: if there is no solver to start from or none to compare with, or the
        microbatch does not divide the batch, or the devices not the microbatch.
    """
    starts.check(config.init, model, config.nfe)
    names = solvers.expand(config.solvers)
    for nfe in config.nfe:
        if not solvers.build_all(names, nfe, model.scheduler):
            raise ValueError(
                f"--solvers: none of {', '.join(names)} exists at {nfe} evaluations"
            )
    search = optimizers.of(config)
    microbatch, batch = search.microbatch, search.batch_of(config.train_pairs)
    if microbatch is not None:
        if batch % microbatch:
            raise ValueError(
                f"--microbatch must divide the {batch} pairs of a step, got "
                f"{microbatch}"
            )
        parallel.check_divisible(microbatch, model.mesh)


def run(model: Problem, config: JobConfig, workdir: Workdir, stage: str) -> None:
    """Pairs, then distillation, then evaluation, and what came of it.

    What the workdir has of them is read.

    Args:
      model: to sample from.
      config: of the run.
      workdir: for everything that is written.
      stage: "pairs" or "distill" to stop after it.
    """
    start = time.monotonic()
    chunk = config.chunk or None
    pairs = truth.make_pairs(model, config, workdir, chunk=chunk)
    print(f"pairs are ready after {time.monotonic() - start:.0f} s", flush=True)
    if stage == "pairs":
        return
    distilled = distil_all(model, config, workdir, pairs)
    if stage == "distill":
        return
    rows = evaluate_all(model, config, workdir, pairs, distilled)
    print(f"\n{table(rows, model.data_range)}\n")
    reached = [row.psnr_db for row in rows]
    print(truth.describe(model, config, workdir, pairs["test"], reached, chunk))
    print(
        f"forwards count calls of the guided field, {model.network_calls} network "
        f"evaluations each; ground truth took {pairs['test'].nfe.mean():.0f} NFE."
    )
    print(f"finished after {time.monotonic() - start:.0f} s; in {workdir.root}:")
    for nfe in config.nfe:
        print(f"  solvers/bns_{nfe}.json   bns_jax.interchange.load(path)")
    print("  table.csv  psnr_vs_nfe.png  samples.png  history/")


def distil_all(
    model: Problem, config: JobConfig, workdir: Workdir, pairs: dict[str, Pairs]
) -> dict[int, Distilled]:
    """One BNS solver per number of evaluations, in ascending order.

    Finished ones are read. Their forwards include those of their starts.
    """
    distilled: dict[int, Distilled] = {}
    for nfe in config.nfe:
        previous = distilled[max(distilled)] if distilled else None
        of = _identity(model, config, pairs, nfe)
        found = parallel.if_everywhere(solver_files.find(workdir, nfe, of))
        distilled[nfe] = found or _distil(model, config, workdir, pairs, nfe, previous)
    return distilled


def evaluate_all(
    model: Problem,
    config: JobConfig,
    workdir: Workdir,
    pairs: dict[str, Pairs],
    distilled: dict[int, Distilled],
) -> list[Row]:
    """Every solver on the test pairs: a table, a plot, and samples.

    The solver files say from then on what they reach.
    """
    test, names = pairs["test"], solvers.expand(config.solvers)
    built = {nfe: solvers.build_all(names, nfe, model.scheduler) for nfe in config.nfe}
    bespoke = {nfe: {display.BESPOKE: fit.params} for nfe, fit in distilled.items()}
    kept = workdir.results("test"), workdir.results("train")
    others = comparison.compare(model, built, test, kept[0])
    rows = list(others)
    trained = comparison.compare(model, bespoke, pairs["train"], kept[1])
    for row, on_train in zip(
        comparison.compare(model, bespoke, test, kept[0]), trained, strict=True
    ):
        fitted, best_other = distilled[row.nfe], comparison.best(others, row.nfe)
        solver_files.add_measured(model, workdir, test.size, row, best_other)
        rows.append(
            row._replace(
                gain_db=row.psnr_db - best_other.psnr_db,
                overfit_db=on_train.psnr_db - row.psnr_db,
                forwards=fitted.forwards,
                seconds=fitted.history[-1].seconds,
            )
        )
    comparison.write(rows, model, workdir)
    nfe = min(config.nfe)
    runner_up = comparison.best(others, nfe).solver
    shown = {
        "BNS": distilled[nfe].params,
        display.name(runner_up): built[nfe][runner_up],
    }
    _show_samples(model, shown, test, workdir)
    return rows


def _distil(
    model: Problem,
    config: JobConfig,
    workdir: Workdir,
    pairs: dict[str, Pairs],
    nfe: int,
    previous: Distilled | None,
) -> Distilled:
    """One BNS solver, written to the workdir when it is finished."""
    name = solver_files.name(nfe)
    start = starts.find(config.init, model, pairs, nfe, previous, workdir)
    family = families.bns(start.params)
    if config.sigma_0 != 1.0:
        family = families.preconditioned(family, model.scheduler, config.sigma_0)
    with ProgressBar(f"distill/{name}", "step") as progress:
        fitted = distill.fit(
            family,
            model,
            pairs["train"],
            pairs["validation"],
            **_recipe(model, config),
            checkpoint=workdir.checkpoint(f"{name}_from_{start.name}"),
            report=distill.Report(progress, stop=preemption.asked),
        )
    of = {**fitted.identity, **_search(config)}
    fitted = fitted._replace(forwards=start.forwards + fitted.forwards, identity=of)
    solver_files.write(model, workdir, nfe, start.name, fitted)
    return fitted


def _recipe(model: Problem, config: JobConfig) -> dict[str, Any]:
    """The arguments of `distill.fit` that shape its result."""
    return {
        "optimizer": optimizers.cached(
            model, optimizers.of(config), config.train_pairs
        ),
        "seed": config.seed,
    }


def _search(config: JobConfig) -> dict[str, Any]:
    """What of the configuration shapes a solver besides, as JSON values."""
    return {"init": config.init, "sigma_0": config.sigma_0}


def _identity(
    model: Problem, config: JobConfig, pairs: dict[str, Pairs], nfe: int
) -> dict[str, Any]:
    """What a finished solver must be of, wherever its search started from."""
    of_run = distill.identify(
        families.bns(solvers.euler(nfe)),
        model,
        pairs["train"],
        pairs["validation"],
        **_recipe(model, config),
    )
    return {**of_run, **_search(config)}


def _show_samples(
    model: Problem, solvers: dict[str, NSParams], test: Pairs, workdir: Workdir
) -> None:
    """The same noise through ground truth and each solver."""
    shown = first(test, _SHOWN_SAMPLES)
    truth = f"ground truth\n(Dopri5, {np.mean(test.nfe):.0f} NFE)"
    sheet, sample = {truth: np.asarray(shown.x1)}, jax.jit(ns.sample)
    for name, params in solvers.items():
        sheet[f"{name}, {len(params.a)} NFE"] = on_host(
            sample(params, model.field, shown.x0, *shown.args)
        )
    title = f"{display.title(model)}: the same noise in each column"
    path = workdir.root / "samples.png"
    samples.plot_samples(sheet, path, title, truth, model.data_range)
