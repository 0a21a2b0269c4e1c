"""What the laws range over. A solver or scheduler added here meets every law."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from bns_jax import grids, schedulers, solvers
from bns_jax.ns import NSParams

ALL_SCHEDULERS = {
    "cond_ot": schedulers.cond_ot(),
    "cosine": schedulers.cosine(),
    "vp": schedulers.vp(),
    "ve": schedulers.ve(),
    "alphas_cumprod": schedulers.from_alphas_cumprod(
        np.cumprod(1.0 - np.linspace(1e-3, 0.2, 100))
    ),
    "zero_terminal": schedulers.from_alphas_cumprod(
        [*np.cumprod(1.0 - np.linspace(1e-3, 0.2, 100))[:-1], 0.0]
    ),
    "shifted": schedulers.shifted(3.0),
    "shifted_cosine": schedulers.shifted(0.5, schedulers.cosine()),
}
"""One of each kind."""

_TABLES = ("alphas_cumprod", "zero_terminal")
SMOOTH_SCHEDULERS = [name for name in ALL_SCHEDULERS if name not in _TABLES]
"""Those with continuous derivatives."""


ALL_GRIDS: dict[str, Callable[[Any], grids.Grid]] = {
    "uniform": lambda _: grids.uniform(),
    "log_snr": grids.log_snr,
    "karras": grids.karras,
    "karras_sigma_min": lambda path: grids.karras(path, final="sigma_min"),
    "karras_repeat": lambda path: grids.karras(path, final="repeat"),
    "exponential": grids.exponential,
    "beta": grids.beta,
    "shifted": lambda _: grids.shifted(3.0),
    "leading": lambda path: grids.timesteps("leading", offset=1, scheduler=path),
    "leading_skipped": lambda path: grids.timesteps(
        "leading", skip_last=True, scheduler=path
    ),
    "linspace": lambda path: grids.timesteps(
        "linspace", final="sigma_min", scheduler=path
    ),
    "trailing": lambda path: grids.timesteps("trailing", scheduler=path),
    "from_times": lambda _: lambda n: grids.from_times(np.linspace(0, 1, n + 1))(n),
    "resampled": lambda _: grids.resampled([0.0, 0.1, 0.4, 1.0]),
}
"""name -> the grid of a scheduler."""


class KnownSolver(NamedTuple):
    """A solver, as the laws see it: what the library says of it, and what is special.

    Attributes:
      method: the solver with its options.
      history: how many exact earlier points it needs to show its order.
      least: the smallest nfe.
      rest: it shows its order where (nfe - method.extra) % method.stages is this.
      any_nfe: nfe may be any number, not only such a one.
      on_grid: every `stages`-th evaluation is at a time of the grid.
      even_in: it needs equal steps in "time", or in "rho" = sigma / alpha.
      upto: the order of all but its first steps, whose errors may be too small to show.
    """

    method: solvers.Method
    history: int
    least: int
    rest: int = 0
    any_nfe: bool = False
    on_grid: bool = True
    even_in: str = "time"
    upto: int = 0

    @property
    def order(self) -> int:
        return self.method.order

    @property
    def stages(self) -> int:
        return self.method.stages

    @property
    def full_order(self) -> dict[str, Any]:
        return self.method.full_order

    def algorithm(
        self, nfe: int, scheduler: Any, grid: Any = None, **options: Any
    ) -> Any:
        return self.method.replace(**options).algorithm(nfe, scheduler, grid)

    def params(
        self, nfe: int, scheduler: Any, grid: Any = None, **options: Any
    ) -> NSParams:
        return self.method.replace(**options).build(nfe, scheduler, grid)

    def fits(self, nfe: int) -> bool:
        return nfe >= self.least and (self.any_nfe or self.shows_order(nfe))

    def shows_order(self, nfe: int) -> bool:
        return (nfe - self.method.extra) % self.stages == self.rest

    def nfes(self, *candidates: int) -> list[int]:
        """Those that it exists for."""
        return [nfe for nfe in candidates if self.fits(nfe)]

    def nfe_of(self, steps: int) -> int:
        """The number of evaluations that shows the order, in so many steps."""
        rest = (self.stages - self.rest) % self.stages
        return self.stages * steps - rest + self.method.extra

    def at_least(self, nfe: int) -> int:
        """The smallest number of evaluations, from nfe on, that shows the order."""
        fits = (n for n in itertools.count(max(nfe, self.least)) if self.shows_order(n))
        return next(fits)

    def times(
        self, scheduler: Any, start: float, end: float, steps: int, before: int = 0
    ) -> np.ndarray:
        """A grid that shows the order, with some equal steps before its start."""
        along = np.arange(-before, steps + 1) / steps
        if self.even_in == "time":
            return start + (end - start) * along
        first, last = 1.0 / scheduler.snr(np.array([start, end]))
        return scheduler.snr_inverse(1.0 / (first + (last - first) * along))


_SPECIAL: dict[str, dict[str, Any]] = {
    "dpm_solver_2s": {"any_nfe": True, "on_grid": False},
    "dpm_solver_3s": {"any_nfe": True, "on_grid": False, "rest": 2},
    "dpm_solver_pp_2s": {"any_nfe": True, "on_grid": False},
    "dpm_solver_pp_3s": {"any_nfe": True, "on_grid": False, "rest": 2},
    "dpm_solver_3m": {"history": 2},
    "dpm_solver_pp_3m": {"history": 2},
    "unipc1": {"history": 0},
    "unipc2": {"history": 1},
    "unipc3": {"history": 2},
    "unipc1_bh1": {"history": 0},
    "unipc2_bh1": {"history": 1},
    "unipc3_bh1": {"history": 2},
    "unipc2_noise": {"history": 1},
    "ipndm2": {"even_in": "rho"},
    "ipndm3": {"even_in": "rho"},
    "ipndm4": {"even_in": "rho"},
    "edm_euler": {"on_grid": False},
    "pndm": {"history": 0, "least": 3, "on_grid": False, "even_in": "rho", "upto": 4},
    "pndm_rk": {
        "history": 0,
        "least": 13,
        "on_grid": False,
        "even_in": "rho",
        "upto": 4,
    },
    "heun_euler": {"least": 1},
    "edm_heun": {"on_grid": False, "least": 1},
}
"""What is not as the catalogue lets expect: one evaluation at each time of the grid,
as many points in a multistep method as its order says."""


_METHODS = solvers.CATALOGUE | {
    "ab1": solvers.AdamsBashforth(order=1),
    "dpm_solver_pp_3s": solvers.DPMSinglestep(order=3, prediction="data"),
    "deis_tab4": solvers.DEIS(order=4),
    "pndm_rk": solvers.PNDM(start="runge_kutta"),
    "unipc2_noise": solvers.UniPC(p=2, prediction="noise"),
}


def subject(name: str, method: solvers.Method) -> KnownSolver:
    """The solver with what is special of its name."""
    special = dict(_SPECIAL.get(name, {}))
    history = special.pop("history", method.order - 1 if method.stages == 1 else 0)
    least = special.pop("least", max(method.stages, history + 1))
    return KnownSolver(method, history, least, **special)


ALL_SOLVERS = {name: subject(name, method) for name, method in _METHODS.items()}
"""The whole catalogue, and a few more. A line of the catalogue is all that it takes."""

GENERIC = [n for n, of in ALL_SOLVERS.items() if of.method.kind == "generic"]
EXPONENTIAL = [n for n in ALL_SOLVERS if n not in GENERIC]
"""They know their scheduler: exponential integrators, and EDM under its VE."""


def first_of(values: Iterable[Any], *kept: Any) -> list[Any]:
    """Parameters of a test: those kept are in every run, all in the exhaustive one."""
    values, exhaustive = list(values), pytest.mark.exhaustive
    assert set(kept) <= set(values)
    return [v if v in kept else pytest.param(v, marks=exhaustive) for v in values]


def first_cases(cases: Iterable[tuple], *kept: tuple) -> list[Any]:
    """`first_of` where a case has a value for each of several names."""
    return [
        c if c in kept else pytest.param(*c, marks=pytest.mark.exhaustive)
        for c in cases
    ]


def run(params: NSParams, vf: Callable[..., Any], x0: np.ndarray) -> np.ndarray:
    """Every iterate of eq. 11, one term after another, in NumPy."""
    times, a, b = map(np.asarray, params)
    x, velocities, iterates = x0, [], []
    for i in range(len(times)):
        velocities.append(np.asarray(vf(times[i], x)))
        x = a[i] * x0
        for j in range(i + 1):
            x = x + b[i, j] * velocities[j]
        iterates.append(x)
    return np.stack(iterates)


def random_params(rng: np.random.Generator, nfe: int) -> NSParams:
    """Any member of the family, of moderate size."""
    return NSParams(
        np.sort(rng.uniform(size=nfe)),
        1.0 + 0.3 * rng.normal(size=nfe),
        np.tril(rng.normal(size=(nfe, nfe))) / nfe,
    )


def assert_close(got: Any, expected: Any, tolerance: float) -> None:
    """Equal to within `tolerance`, relative to the largest entry expected."""
    expected = np.asarray(expected)
    size = max(1.0, float(np.max(np.abs(expected))))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * size)


@contextlib.contextmanager
def count_compilations() -> Iterator[list[str]]:
    """Collects one entry for each program that XLA compiles meanwhile."""
    compiled: list[str] = []

    def listen(event: str, _: float, **__: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
