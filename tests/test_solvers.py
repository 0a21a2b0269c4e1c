"""Laws of the known solvers: order, exactness, times, bad input."""

import subprocess
import sys

import numpy as np
import pytest

from bns_jax import grids, schedulers, solvers
from tests.fields import Gaussian, Linear, Logistic
from tests.laws import (
    ALL_SCHEDULERS,
    ALL_SOLVERS,
    EXPONENTIAL,
    GENERIC,
    SMOOTH_SCHEDULERS,
    assert_close,
    run,
)

START, END = 0.1, 0.9
NFES = {1: (128, 256, 512), 2: (256, 512, 1024), 3: (64, 128, 256), 4: (96, 192, 384)}
X0 = np.array([0.2, 0.45, 0.7])

each_scheduler = pytest.mark.parametrize("scheduler", list(ALL_SCHEDULERS))
each_smooth_scheduler = pytest.mark.parametrize("scheduler", SMOOTH_SCHEDULERS)
each_solver = pytest.mark.parametrize("solver", list(ALL_SOLVERS))
each_generic = pytest.mark.parametrize("solver", GENERIC)
each_exponential = pytest.mark.parametrize("solver", EXPONENTIAL)


def order_of_convergence(known, path, field):
    """The slope of log error against log step, between START and END."""
    errors, nfes = [], NFES[known.order]
    for nfe in nfes:
        steps = nfe // known.stages
        h = (END - START) / steps
        options = {}
        if known.history:
            before = START - h * np.arange(known.history, 0, -1)
            options["history"] = [
                (t, field.velocity(t, field.flow(START, t, X0))) for t in before
            ]
        grid = grids.uniform(START, END)
        algorithm = known.algorithm(nfe, path, grid=grid, **options)
        x1 = algorithm(field.velocity, X0)
        errors.append(np.max(np.abs(x1 - field.flow(START, END, X0))))
    slope, _ = np.polyfit(np.log(nfes), np.log(errors), 1)
    return -slope


@each_generic
@pytest.mark.parametrize("field", [Linear(), Logistic()], ids=["linear", "logistic"])
def test_order_on_any_field(solver, field):
    known = ALL_SOLVERS[solver]
    assert abs(order_of_convergence(known, None, field) - known.order) < 0.2


@each_exponential
@each_smooth_scheduler
def test_order_on_a_gaussian_path(solver, scheduler):
    known, path = ALL_SOLVERS[solver], ALL_SCHEDULERS[scheduler]
    slope = order_of_convergence(known, path, Gaussian(path, std=0.25))
    assert abs(slope - known.order) < 0.2


@each_solver
@each_scheduler
def test_times_are_sorted_and_asked_where_the_grid_says(solver, scheduler):
    known, path = ALL_SOLVERS[solver], ALL_SCHEDULERS[scheduler]
    for nfe in known.nfes(1, 4, 7, 12):
        grid = grids.log_snr(path)
        params = known.params(nfe, path, grid=grid)
        laid = grids.times(grid, nfe // known.stages)
        assert np.all(np.diff(params.times) >= 0)
        assert_close(params.times[:: known.stages], laid[:-1], 1e-15)
        assert params.times[-1] <= 1.0


@each_generic
def test_times_stay_sorted_in_floating_point(solver):
    known = ALL_SOLVERS[solver]
    for nfe in known.nfes(*range(1, 61)):
        times = known.params(nfe, None).times
        assert np.all(np.diff(times) >= 0)
        assert times[-1] <= 1.0


@each_generic
def test_a_constant_field_is_integrated_exactly(solver):
    known = ALL_SOLVERS[solver]
    for nfe in known.nfes(1, 4, 6, 8):
        _, a, b = known.params(nfe, None)
        assert_close(a, np.ones(nfe), 1e-14)
        assert_close(b[-1].sum(), 1.0, 1e-13)
        _, _, b = known.params(nfe, None, grid=grids.uniform(START, END))
        assert_close(b[-1].sum(), END - START, 1e-13)


@each_generic
def test_every_iterate_moves_to_the_next_time(solver):
    known = ALL_SOLVERS[solver]
    for nfe in known.nfes(4, 8):
        times, _, b = known.params(nfe, None)
        assert_close(b.sum(axis=1), [*times[1:], 1.0], 1e-13)


@each_generic
def test_polynomials_in_time_below_the_order_are_integrated_exactly(solver):
    known = ALL_SOLVERS[solver]
    params = known.params(8, None)
    # Multistep methods start with lower order.
    for power in range(known.order if known.stages > 1 else 1):
        got = run(params, lambda t, x, p=power: t**p + 0.0 * x, X0)[-1]
        assert_close(got, X0 + 1.0 / (power + 1), 1e-13)


@each_exponential
@each_scheduler
def test_a_constant_data_prediction_is_followed_exactly(solver, scheduler):
    """One data point: the prediction never changes, and the sample is that point."""
    known, path = ALL_SOLVERS[solver], ALL_SCHEDULERS[scheduler]
    point = Gaussian(path, mean=0.4, std=0.0)
    for nfe in known.nfes(1, 4, 7):
        params = known.params(nfe, path)
        got = run(params, point.velocity, X0)
        ends = np.array([*params.times[1:], 1.0])
        expected = np.stack([point.flow(0.0, t, X0) for t in ends])
        assert_close(got, expected, 1e-10)
        assert_close(got[-1], np.full(3, 0.4), 1e-10)


@each_exponential
@each_scheduler
def test_weights_are_finite_on_the_whole_interval(solver, scheduler):
    known, path = ALL_SOLVERS[solver], ALL_SCHEDULERS[scheduler]
    for grid in (grids.uniform(), grids.log_snr(path), grids.karras(path)):
        for leaf in known.params(8, path, grid=grid):
            assert np.all(np.isfinite(leaf))


@each_exponential
def test_first_order_exponential_integrators_are_euler_on_cond_ot(solver):
    """u = m - e there, so keeping the prediction is keeping the velocity."""
    known = ALL_SOLVERS[solver]
    if known.order > 1:
        pytest.skip("of higher order")
    path = schedulers.cond_ot()
    for leaf, expected in zip(known.params(5, path), solvers.euler(5), strict=True):
        assert_close(leaf, expected, 1e-13)


@each_solver
@each_scheduler
def test_more_steps_bring_it_to_the_flow(solver, scheduler):
    known, path = ALL_SOLVERS[solver], ALL_SCHEDULERS[scheduler]
    field, grid = Gaussian(path, std=0.25), grids.uniform(START, END)
    expected, errors = field.flow(START, END, X0), []
    for nfe in (16, 64, 256):
        algorithm = known.algorithm(nfe, path, grid=grid)
        errors.append(np.max(np.abs(algorithm(field.velocity, X0) - expected)))
    assert errors[2] < errors[0] / 4
    assert errors[2] < 0.05


def test_adams_bashforth_knows_its_textbook_weights():
    """On equal steps, the weights of Hairer, Norsett and Wanner, table III.1.1."""
    textbook = {
        2: np.array([-1, 3]) / 2,
        3: np.array([5, -16, 23]) / 12,
        4: np.array([-9, 37, -59, 55]) / 24,
    }
    for order, weights in textbook.items():
        _, _, b = solvers.adams_bashforth(8, order)
        last_step = (b[-1] - b[-2]) * 8
        assert_close(last_step[-order:], weights, 1e-12)
        assert_close(last_step[:-order], np.zeros(8 - order), 1e-12)


@each_solver
def test_nfe_that_cannot_be_split_is_named(solver):
    known = ALL_SOLVERS[solver]
    path = ALL_SCHEDULERS["cond_ot"]
    bad = {0, -1, known.least - 1} | ({7} if known.stages > 1 else set())
    for nfe in bad:
        with pytest.raises(ValueError, match=f"got {nfe}"):
            known.params(nfe, path)


def test_midpoint_with_7_names_both_numbers():
    with pytest.raises(ValueError, match="a positive multiple of 2, got 7"):
        solvers.midpoint(7)


@each_solver
@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([0.0, 0.6, 0.4, 0.8, 1.0], "sorted"),
        ([-0.1, 0.2, 0.4, 0.8, 1.0], r"\[0, 1\]"),
        ([0.0, 0.2, 0.4, 0.8, 1.2], r"\[0, 1\]"),
        ([0.0, 0.2, np.nan, 0.8, 1.0], "finite"),
        ([0.0, 0.5, 1.0], "needs 5 times"),
    ],
)
def test_bad_grids_are_named(solver, grid, message):
    known = ALL_SOLVERS[solver]
    with pytest.raises(ValueError, match=message):
        known.params(4 * known.stages, ALL_SCHEDULERS["cond_ot"], grid=grid)


@pytest.mark.parametrize("order", [0, 5, -1])
def test_adams_bashforth_names_its_orders(order):
    with pytest.raises(ValueError, match=f"order must be from 1 to 4, got {order}"):
        solvers.adams_bashforth(8, order)


@pytest.mark.parametrize("order", [0, 3])
def test_dpm_solver_pp_names_its_orders(order):
    with pytest.raises(ValueError, match=f"order must be 1 or 2, got {order}"):
        solvers.dpm_solver_pp(8, schedulers.vp(), order)


@pytest.mark.parametrize(
    "build",
    [
        lambda: solvers.adams_bashforth(2, 3),
        lambda: solvers.dpm_solver_pp(1, schedulers.vp(), 2),
    ],
)
def test_an_order_above_nfe_is_named(build):
    with pytest.raises(ValueError, match=r"order \d needs nfe >= \d, got \d"):
        build()


@pytest.mark.parametrize(
    "solver", [name for name, s in ALL_SOLVERS.items() if s.exponential or "_" in name]
)
def test_repeated_times_are_named(solver):
    with pytest.raises(ValueError, match="distinct times"):
        ALL_SOLVERS[solver].params(
            4, ALL_SCHEDULERS["vp"], grid=[0.0, 0.3, 0.3, 0.6, 1.0]
        )


def test_a_tableau_checks_itself():
    with pytest.raises(ValueError, match=r"wrong: b must sum to 1, got 0\.5"):
        solvers.Tableau("wrong", a=((),), b=(0.5,))
    with pytest.raises(ValueError, match="wrong: an explicit tableau of 2 stages"):
        solvers.Tableau("wrong", a=((), ()), b=(0.5, 0.5))


BUILD_ALL = """
import numpy as np
from tests.laws import ALL_SCHEDULERS, ALL_SOLVERS, count_compilations

with count_compilations() as compiled:
    for known in ALL_SOLVERS.values():
        for scheduler in ALL_SCHEDULERS.values():
            for leaf in known.params(20, scheduler):
                assert type(leaf) is np.ndarray and leaf.dtype == np.float64, leaf
assert not compiled, f"{len(compiled)} programs compiled"
"""


def test_building_compiles_nothing_and_needs_no_x64():
    subprocess.run([sys.executable, "-W", "error", "-c", BUILD_ALL], check=True)
