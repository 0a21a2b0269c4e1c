"""Solvers side by side: what each reaches on the same pairs, as a table that prints."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from bns_jax import (
    identity,
    kinds,
    metrics,
    notices,
    ns,
    pairs,
    parallel,
    probing,
    scalars,
    solvers,
    tables,
)
from bns_jax.accuracy import Accuracy
from bns_jax.distill.batch import of_rows
from bns_jax.distill.evaluate import measure
from bns_jax.distill.objectives import Metric, as_batch_function
from bns_jax.moved import moved
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs
from bns_jax.problem import Problem
from bns_jax.progress import shown
from bns_jax.pytree import checksum
from bns_jax.results_store import Result, ResultsStore
from bns_jax.schedulers import Scheduler
from bns_jax.typing import Progress, VelocityField

_LEFT_OUT = "; without a scheduler, solvers that need one are left out"
_NOT_FINITE = (
    "nan or -inf: samples that are not finite, as of a solver that asks for the "
    "velocity at t = 1 where the path has none"
)


class Comparison(NamedTuple):
    """Results, in the order in which they were asked for; prints as a table.

    Attributes:
      results: one per solver and number of evaluations.
      caption: what was measured, on what.
    """

    results: tuple[Result, ...]
    caption: str

    def best(self, nfe: int) -> Result:
        """The best result at one number of evaluations; what blew up comes last.

        Args:
          nfe: evaluations of the field.

        Returns:
          The one of the highest mean.

        Raises:
          ValueError: if nothing was compared there.
        """
        there = [result for result in self.results if result.nfe == nfe]
        if not there:
            raise ValueError(f"nothing was compared at {nfe} evaluations")
        return max(there, key=lambda result: (not np.isnan(result.mean), result.mean))

    def __str__(self) -> str:
        """A line per solver, the best last, and a column per number of evaluations."""
        nfes = sorted({result.nfe for result in self.results})
        means = {(result.solver, result.nfe): result.mean for result in self.results}
        names = sorted(
            dict.fromkeys(result.solver for result in self.results),
            key=lambda name: max(
                (nfe, means.get((name, nfe), -np.inf)) for nfe in nfes
            ),
        )
        lines = [["solver", *(f"NFE {nfe}" for nfe in nfes)], []]
        for name in names:
            values = (means.get((name, nfe)) for nfe in nfes)
            lines.append([name, *("-" if v is None else f"{v:.2f}" for v in values)])
        note = f"\n{_NOT_FINITE}" if not np.all(np.isfinite([*means.values()])) else ""
        return f"{self.caption}\n\n{tables.aligned(lines)}{note}"


@moved(
    mesh="bns_jax.Problem(field, mesh=mesh), in the place of the field",
    progress="report=",
)
def compare(
    vf: Problem | VelocityField,
    data: Pairs,
    nfe: int | Sequence[int],
    *,
    names: Sequence[str] = ("all",),
    scheduler: Scheduler | None = None,
    also: Mapping[str, NSParams | Mapping[int, NSParams]] | None = None,
    metric: Metric | None = None,
    truth: Accuracy | None = None,
    directory: epath.PathLike | None = None,
    report: Progress | None = None,
) -> Comparison:
    """Measures known solvers, and one's own, on the same pairs.

    Args:
      vf: the field, or a `Problem`.
      data: pairs to measure on.
      nfe: numbers of evaluations.
      names: solvers of `solvers.CATALOGUE`, "solver@grid", "common" or "all".
      scheduler: the path of the model. Left out, the problem or a field made by
        `velocity.from_*` knows its own; for others there are the solvers that need
        none.
      also: one's own solvers by a name that the catalogue does not have, as three
        arrays or several of them by their NFE.
      metric: metric(x_n, x1) or metric(x_n, batch) -> (batch,), larger is better; that
        of the problem, PSNR, if left out.
      truth: how exact the pairs are, as `accuracy.measure` says, for below the table.
      directory: where results are kept; a second call continues there.
      report: called after each solver; a line on a terminal if left out.

    Returns:
      The results; `print` shows them as a table.

    Raises:
      ValueError: if a name is unknown, no solver exists at one of the NFE, all solvers
        of a name of one's own are at others, the pairs do not belong together, the
        directory holds results of something else, or there is a `truth`, which is in
        PSNR, and another metric.

    Warns:
      UserWarning: if the pairs are too inexact for what was measured on them.
    """
    counts = _counts(nfe)
    pairs.check(data)
    _check_truth(truth, metric)
    kinds.check("solvers by name", {} if also is None else also, Mapping, "also")
    problem = Problem.of(vf)
    if scheduler is not None:
        problem = dataclasses.replace(problem, scheduler=scheduler)
    path, metric = problem.scheduler, metric or problem.metric
    chosen = _choose(solvers.expand(names), counts, path, also or {})
    for params in chosen.values():
        ns.validate(params)
    results = measure_all(problem, data, chosen, metric, directory, report)
    caption = f"{_described(metric)} on {data.size} pairs"
    for doubt in truth.doubts(result.mean for result in results) if truth else ():
        notices.warn(doubt)
    notes = [_LEFT_OUT if path is None else "", f"; {truth}" if truth else ""]
    return Comparison(tuple(results), caption + "".join(notes))


def _counts(nfe: int | Sequence[int]) -> list[int]:
    """Numbers of evaluations, at least one."""
    asked = [nfe] if np.ndim(nfe) == 0 else list(nfe)  # type: ignore[arg-type]
    if not asked:
        raise ValueError("expected at least one number of evaluations, got none")
    return [scalars.nfe(count) for count in asked]


def _check_truth(truth: Any, metric: Metric | None) -> None:
    """Refuses what is no accuracy, or is none of this metric."""
    expected = "what accuracy.measure returns"
    kinds.check(expected, truth, Accuracy, "truth", optional=True)
    if truth is not None and metric is not None:
        raise ValueError("truth is in PSNR: expected no metric, got one")


def _described(metric: Metric) -> str:
    """Its name, and of PSNR the range that it is for."""
    given = metric if isinstance(metric, functools.partial) else None
    if (given.func if given else metric) is metrics.psnr:
        bound = inspect.signature(metric).parameters["data_range"]
        return f"psnr (data_range={bound.default:g})"
    named = given.func if given else metric
    return str(getattr(named, "__name__", identity.describe(named)))


def measure_all(
    problem: Problem,
    data: Pairs,
    chosen: Mapping[tuple[str, int], NSParams],
    metric: Metric | None = None,
    directory: epath.PathLike | None = None,
    report: Progress | None = None,
) -> list[Result]:
    """What each of some solvers reaches.

    Args:
      problem: to sample from.
      data: pairs to measure on.
      chosen: (name, number of evaluations) -> solver.
      metric: what is measured; that of the problem if left out.
      directory: where results are kept.
      report: called after each solver.

    Returns:
      A result per solver, in their order.
    """
    metric, field, mesh = metric or problem.metric, problem.place(), problem.mesh
    answers = probing.look(field, data.x0, data.args, mesh)
    kept = ResultsStore(directory, _identity(problem.pytree, answers, data, metric))
    results: list[Result] = []
    with shown(report, "compare", "solvers") as told:
        for (name, nfe), params in chosen.items():
            params = jax.tree.map(np.asarray, params)
            found = parallel.if_everywhere(kept.find(name, nfe, params))
            if found is None:
                values = measure(params, field, data, metric, mesh)
                found = _result(name, nfe, values)
                kept.add(found, params)
            results.append(found)
            told(len(results), len(chosen), f"{name} {nfe}")
    return results


def _choose(
    names: Sequence[str],
    counts: Sequence[int],
    scheduler: Scheduler | None,
    also: Mapping[str, NSParams | Mapping[int, NSParams]],
) -> dict[tuple[str, int], NSParams]:
    chosen: dict[tuple[str, int], NSParams] = {}
    for nfe in counts:
        built = solvers.build_all(names, nfe, scheduler)
        chosen |= {(name, nfe): params for name, params in built.items()}
    for name, given in also.items():
        several = {len(given.a): given} if isinstance(given, NSParams) else given
        chosen |= _own(name, several, counts)
    if not chosen:
        left_out = "" if scheduler is not None else _LEFT_OUT
        raise ValueError(
            f"no solver of {list(names)} exists at {list(counts)} NFE{left_out}"
        )
    return dict(sorted(chosen.items(), key=lambda item: item[0][1]))


def _own(
    name: str,
    several: Mapping[int, NSParams],
    counts: Sequence[int],
) -> dict[tuple[str, int], NSParams]:
    """One's own solvers at the NFE that were asked for."""
    if not isinstance(name, str) or name.partition("@")[0] in solvers.CATALOGUE:
        raise ValueError(
            f"also: expected names of one's own, got {name!r:.60}, which is no name or "
            "one of the catalogue's; those of the catalogue come by names="
        )
    if not isinstance(several, Mapping):
        inside = "; the solver is in its .params" if hasattr(several, "params") else ""
        raise ValueError(
            f"also[{name!r}] must be a solver, or solvers by their NFE, got "
            f"{type(several).__name__}{inside}"
        )
    for nfe, params in several.items():
        ns.validate(params)
        if len(params.a) != nfe:
            raise ValueError(
                f"also[{name!r}][{nfe!r}] must make {nfe!r} evaluations, got a solver "
                f"of {len(params.a)}"
            )
    if not any(nfe in several for nfe in counts):
        raise ValueError(
            f"also[{name!r}] has none of the {list(counts)} NFE that were asked for, "
            f"got solvers at {list(several)}"
        )
    return {(name, nfe): several[nfe] for nfe in counts if nfe in several}


def _result(name: str, nfe: int, values: np.ndarray) -> Result:
    low = high = np.nan  # A solver that blows up has no interval.
    if np.all(np.isfinite(values)):
        low, high = metrics.bootstrap_interval(values)
    return Result(name, nfe, float(np.mean(values)), low, high)


def _identity(
    vf: VelocityField, answers: identity.Probe, data: Pairs, metric: Metric
) -> dict[str, Any]:
    """What results are of, as JSON values."""
    one = of_rows(data, np.arange(1))
    of_metric = identity.probe(as_batch_function(metric)(one.x0, one))
    return {
        **identity.of_function("field", vf, answers),
        **identity.of_function("metric", metric, of_metric),
        "pairs": checksum((data.x0, data.x1, data.args)),
    }
