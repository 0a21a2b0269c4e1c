"""Where the search for a solver starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from bns_jax import (
    distill,
    grids,
    identity,
    interchange,
    ns,
    parallel,
    probing,
    solvers,
)
from bns_jax.distill import Distilled
from bns_jax.distill.path_grid import POWERS
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs
from bns_jax.pytree import checksum
from experiments.job import comparison
from experiments.models.catalogue import Model
from experiments.run.workdir import Workdir

GREEDY, PREVIOUS, BEST = "greedy", "previous", "best"
NAMES = (GREEDY, PREVIOUS, BEST)
"""Starts that are no solver's name."""


class Start(NamedTuple):
    """Where a search begins.

    Attributes:
      name: of the solver, or of the way it was found.
      params: the solver.
      forwards: calls of the field on one sample that it took to find it.
    """

    name: str
    params: NSParams
    forwards: int = 0


def check(init: str, model: Model, nfe: Sequence[int]) -> None:
    """Checks that the solver to start from exists, before any work.

    Raises:
      ValueError: naming those that do, if it does not for one of the NFE; if it is
        more than one.
    """
    if init in NAMES:
        return
    names = solvers.expand([init])
    if len(names) != 1:
        raise ValueError(
            f"--init must be one solver or one of {', '.join(NAMES)}, got {init}"
        )
    (name,) = names
    for count in nfe:
        if not solvers.build_all([name], count, model.scheduler):
            there = solvers.build_all(solvers.ALL, count, model.scheduler)
            raise ValueError(
                f"--init={name} does not exist at {count} evaluations; there are "
                f"{', '.join(there)}"
            )


def greedy_grids(after_another: bool) -> int:
    """How many grids the greedy start tries, after a smaller solver or without one."""
    return len(POWERS) + after_another


def find(
    init: str,
    model: Model,
    pairs: dict[str, Pairs],
    nfe: int,
    previous: Distilled | None,
    workdir: Workdir,
) -> Start:
    """The solver that --init asks for.

    Args:
      init: a solver's name, "greedy" (fitted row by row), "previous" (the one for the
        next smaller NFE, extended) or "best" (the common solver that validates best).
      model: to sample from.
      pairs: of training and validation.
      nfe: evaluations.
      previous: the solver for the next smaller NFE, if there is one.
      workdir: where the greedy start is kept, so that a run which is continued on other
        devices continues from the same numbers.
    """
    if init == PREVIOUS and previous is not None:
        extended = ns.extend(previous.params, nfe)
        return Start(f"bns_{len(previous.params.a)}", extended, previous.forwards)
    if init in (GREEDY, PREVIOUS):
        return _greedy(model, pairs["train"], nfe, previous, workdir)
    if init == BEST:
        built = solvers.build_all(solvers.COMMON, nfe, model.scheduler)
        rows = comparison.compare(
            model,
            {nfe: built},
            pairs["validation"],
            workdir.results("validation"),
        )
        init = comparison.best(rows, nfe).solver
    return Start(init, solvers.build_all([init], nfe, model.scheduler)[init])


def _greedy(
    model: Model, train: Pairs, nfe: int, previous: Distilled | None, workdir: Workdir
) -> Start:
    """Fitted row by row, also on times as dense as those of the solver before.

    What that one took is not counted again: of it these are a guess.
    """
    smaller = None if previous is None else previous.params
    name = GREEDY if smaller is None else f"{GREEDY}_after_{len(smaller.a)}"
    candidates = distill.grids_after(train, smaller)
    path = workdir.start(f"{name}_{nfe}")
    forwards = len(candidates) * nfe * train.size
    of = _identity(model, train, nfe, candidates)
    params = parallel.if_everywhere(_load(path, of))
    if params is None:
        params = distill.greedy(model.field, train, nfe, candidates, mesh=model.mesh)
        if parallel.is_main():
            metadata = model.facts | {"identity": of}
            interchange.save(path, params, metadata, purpose=model.purpose(of))
    return Start(name, params, forwards)


def _identity(
    model: Model, train: Pairs, nfe: int, candidates: Sequence[grids.Grid]
) -> dict[str, Any]:
    """What a greedy start is of, as JSON values."""
    answers = probing.look(model.field, train.x0, train.args, model.mesh)
    laid = [grids.times(candidate, nfe) for candidate in candidates]
    return {
        **identity.of_function("field", model.field, answers),
        "nfe": nfe,
        "grids": checksum(laid),
        "train": checksum((train.x0, train.x1, train.args, train.times, train.path)),
    }


def _load(path: epath.Path, of: Mapping[str, Any]) -> NSParams | None:
    """None if it is not there, or not whole.

    Raises:
      ValueError: if it is not what is asked for; names what differs.
    """
    try:
        params, metadata = interchange.load(path), interchange.load_metadata(path)
    except ValueError:
        return None
    identity.check_same(
        metadata.get("identity", {}),
        of,
        f"{path} is another start",
        "remove it to make it again, or choose another --workdir",
    )
    return params
