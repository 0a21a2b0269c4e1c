"""What matters for a distilled solver: one study per question."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bns_jax import Problem, distill, families, metrics, ns, solvers
from bns_jax.distill import AnyObjective, Distilled, Optimizer
from bns_jax.families import Family
from bns_jax.pairs import Pairs, first
from experiments.ablations.study import StudyResult
from experiments.job import comparison, optimizers, starts, truth
from experiments.job.config import PairsConfig
from experiments.job.starts import Start
from experiments.run import preemption
from experiments.run.progress import ProgressBar
from experiments.run.workdir import Workdir

_SIGMA_0 = (0.5, 1.0, 2.0, 5.0, 10.0)
_GUIDANCE = (0.0, 0.5, 2.0, 6.5)
_TRAIN_PAIRS = (32, 128, 520, 2048)
_BESPOKE_STEPS = 500


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all studies share.

    Attributes:
      model: to distil for.
      load: load(w) -> that model at another guidance scale.
      pairs: of every split.
      most_train_pairs: that the study of their number fits to.
      nfe: numbers of evaluations.
      optimizer: of solvers.
      config: of pairs and seeds.
      workdir: of checkpoints and pairs.
    """

    model: Problem
    load: Callable[[float], Problem]
    pairs: dict[str, Pairs]
    most_train_pairs: int
    nfe: tuple[int, ...]
    optimizer: Optimizer
    config: PairsConfig
    workdir: Workdir

    def fit(
        self,
        title: str,
        family: Family,
        optimizer: Optimizer | None = None,
        objective: AnyObjective = distill.psnr_loss,
    ) -> Distilled:
        """One solver; what its checkpoint has of it is read."""
        train = self.pairs["train"]
        with ProgressBar(title, "step") as progress:
            return distill.fit(
                family,
                self.model,
                train,
                self.pairs["validation"],
                optimizer=optimizers.cached(
                    self.model, optimizer or self.optimizer, train.size
                ),
                objective=objective,
                seed=self.config.seed,
                checkpoint=self.workdir.checkpoint(title),
                report=distill.Report(progress, stop=preemption.asked),
            )

    def distil(
        self,
        name: str,
        setting: str,
        family: Family,
        optimizer: Optimizer | None = None,
        objective: AnyObjective = distill.psnr_loss,
        cost_of_start: int = 0,
    ) -> StudyResult:
        """Fits one solver and measures it on the test pairs."""
        start = family.to_params(family.theta)
        nfe = len(start.a)
        fitted = self.fit(_title(name, setting, nfe), family, optimizer, objective)
        test = self.pairs["test"]
        before = comparison.psnr(self.model, start, test)
        reached = comparison.psnr(self.model, fitted.params, test)
        trained = comparison.psnr(self.model, fitted.params, self.pairs["train"])
        low, high = metrics.bootstrap_interval(reached)
        return StudyResult(
            setting,
            nfe,
            float(np.mean(before)),
            float(np.mean(reached)),
            low,
            high,
            float(np.mean(trained) - np.mean(reached)),
            cost_of_start + fitted.forwards,
            fitted.history[-1].seconds,
        )

    def distil_greedy(self, name: str, setting: str, nfe: int) -> StudyResult:
        """The same from the default start."""
        start = self.greedy(nfe)
        family = families.bns(start.params)
        return self.distil(name, setting, family, cost_of_start=start.forwards)

    def greedy(self, nfe: int) -> Start:
        """The default start."""
        return starts.find(
            starts.GREEDY, self.model, self.pairs, nfe, None, self.workdir
        )

    def trained_on(self, train: Pairs) -> Bench:
        """The same with other training pairs, in a folder of its own."""
        workdir = Workdir(self.workdir.root / f"train_{train.size}")
        return dataclasses.replace(
            self, pairs=self.pairs | {"train": train}, workdir=workdir
        )


def _title(name: str, setting: str, nfe: int) -> str:
    return f"{name}_{setting}_{nfe}".replace(" ", "_")


def figure11(bench: Bench) -> list[StudyResult]:
    """BNS against bespoke scale-time solvers, all from the midpoint method."""
    own = distill.bespoke_loss("midpoint")
    adam = distill.adam(5e-3).replace(iterations=_BESPOKE_STEPS)
    results = []
    for nfe in bench.nfe:
        bst = families.bst("midpoint", nfe)
        bns = families.bns(solvers.midpoint(nfe))
        results += [
            bench.distil("figure11", "BST, its own loss", bst, adam, own),
            bench.distil("figure11", "BST, PSNR loss", bst),
            bench.distil("figure11", "BNS, PSNR loss", bns),
        ]
    return results


def table5(bench: Bench) -> list[StudyResult]:
    """Known solvers before and after distillation."""
    names = ("euler", "midpoint", "ab2", "ddim", "dpm_solver_pp_2m", "unipc2")
    return [
        bench.distil("table5", name, families.bns(params))
        for nfe in bench.nfe
        for name, params in solvers.build_all(names, nfe, bench.model.scheduler).items()
    ]


def sigma_0(bench: Bench) -> list[StudyResult]:
    """Preconditioning (eq. 14), from the midpoint method of the wider source."""
    return [
        bench.distil(
            "sigma_0",
            f"{sigma:g}",
            families.preconditioned(
                families.bns(solvers.midpoint(nfe)), bench.model.scheduler, sigma
            ),
        )
        for nfe in bench.nfe
        for sigma in _SIGMA_0
    ]


def start(bench: Bench) -> list[StudyResult]:
    """Where the search starts: Euler, midpoint, the best known solver, greedy."""
    results = []
    for nfe in bench.nfe:
        built = solvers.build_all(solvers.COMMON, nfe, bench.model.scheduler)
        rows = comparison.compare(bench.model, {nfe: built}, bench.pairs["validation"])
        best = comparison.best(rows, nfe).solver
        tried = {
            "euler": built["euler"],
            "midpoint": built["midpoint"],
            "best known": built[best],
        }
        for name, params in tried.items():
            results.append(bench.distil("start", name, families.bns(params)))
        results.append(bench.distil_greedy("start", "greedy", nfe))
        if nfe - 2 in bench.nfe:
            results.append(_from_two_fewer(bench, nfe))
    return results


def _from_two_fewer(bench: Bench, nfe: int) -> StudyResult:
    """From the solver of two evaluations fewer, which started from the greedy one."""
    greedy = bench.greedy(nfe - 2)
    title = _title("start", "greedy", nfe - 2)
    smaller = bench.fit(title, families.bns(greedy.params))
    family = families.bns(ns.extend(smaller.params, nfe))
    cost = greedy.forwards + smaller.forwards
    return bench.distil("start", "from two fewer", family, cost_of_start=cost)


def train_pairs(bench: Bench) -> list[StudyResult]:
    """How many pairs it takes."""
    counts = [count for count in _TRAIN_PAIRS if count <= bench.most_train_pairs]
    workdir = Workdir(bench.workdir.root / "train_pairs")
    most = {"train": max(counts)}
    train = truth.make_pairs(bench.model, bench.config, workdir, most)["train"]
    limited = {count: bench.trained_on(first(train, count)) for count in counts}
    return [
        one.distil_greedy("train_pairs", str(count), nfe)
        for nfe in bench.nfe
        for count, one in limited.items()
    ]


def guidance(bench: Bench) -> list[StudyResult]:
    """The guidance scale w."""
    results = []
    for w in _GUIDANCE:
        workdir = Workdir(bench.workdir.root / f"guidance_{w:g}")
        guided = bench.load(w)
        counts = {name: pairs.size for name, pairs in bench.pairs.items()}
        pairs = truth.make_pairs(guided, bench.config, workdir, counts)
        at_w = dataclasses.replace(bench, model=guided, pairs=pairs, workdir=workdir)
        results += [at_w.distil_greedy("guidance", f"{w:g}", nfe) for nfe in bench.nfe]
    return results


class Study(NamedTuple):
    """A question.

    Attributes:
      run: what answers it.
      varies: the label of what it varies.
      by_nfe: whether its picture has NFE as the axis, and the settings as lines.
    """

    run: Callable[[Bench], Sequence[StudyResult]]
    varies: str
    by_nfe: bool = False


STUDIES = {
    "figure11": Study(figure11, "family and loss", by_nfe=True),
    "table5": Study(table5, "start"),
    "sigma_0": Study(sigma_0, "standard deviation of the source, sigma_0"),
    "start": Study(start, "start"),
    "train_pairs": Study(train_pairs, "training pairs"),
    "guidance": Study(guidance, "guidance scale w"),
}
"""name -> Study."""
