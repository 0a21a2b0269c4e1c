"""Laws of the known solvers: order, exactness, times, bad input."""

import dataclasses
import inspect
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from bns_jax import grids, schedulers, solvers
from tests.fields import Gaussian, Linear, Logistic
from tests.laws import (
    ALL_GRIDS,
    ALL_SCHEDULERS,
    ALL_SOLVERS,
    EXPONENTIAL,
    GENERIC,
    SMOOTH_SCHEDULERS,
    assert_close,
    count_compilations,
    run,
)

START, END = 0.1, 0.9
STDS = np.array([0.5, 1.0, 2.0])
X0 = np.array([0.2, 0.45, 0.7])

each_scheduler = pytest.mark.parametrize("scheduler", list(ALL_SCHEDULERS))
each_smooth_scheduler = pytest.mark.parametrize("scheduler", SMOOTH_SCHEDULERS)
each_solver = pytest.mark.parametrize("solver", list(ALL_SOLVERS))
each_generic = pytest.mark.parametrize("solver", GENERIC)
each_exponential = pytest.mark.parametrize("solver", EXPONENTIAL)


def order_of_convergence(known, path, field, numbers_of_steps):
    """The slope of log error against log step, between START and END."""
    errors = []
    for steps in numbers_of_steps:
        times = known.times(path, START, END, steps, before=known.history)
        options = dict(known.full_order)
        if known.history:
            past = [(t, field.flow(START, t, X0)) for t in times[: known.history]]
            options["history"] = [(t, x, field.velocity(t, x)) for t, x in past]
        grid = times[known.history :]
        algorithm = known.algorithm(known.nfe_of(steps), path, grid=grid, **options)
        x1 = algorithm(field.velocity, X0)
        errors.append(np.max(np.abs(x1 - field.flow(START, END, X0))))
    slope, _ = np.polyfit(np.log(numbers_of_steps), np.log(errors), 1)
    return -slope


@each_generic
@pytest.mark.parametrize("field", [Linear(), Logistic()], ids=["linear", "logistic"])
def test_order_on_any_field(solver, field):
    known = ALL_SOLVERS[solver]
    slope = order_of_convergence(known, None, field, (64, 128, 256))
    assert abs(slope - known.order) < 0.2


@each_exponential
@each_smooth_scheduler
def test_order_on_a_gaussian_path(solver, scheduler):
    known, path = ALL_SOLVERS[solver], ALL_SCHEDULERS[scheduler]
    # One width for each entry of X0, so that no error changes its sign unseen.
    field, steps = Gaussian(path, std=STDS), np.array([64, 128])
    steps *= 16 if known.even_in == "rho" else 4 if known.order > 2 else known.order
    slope = order_of_convergence(known, path, field, steps)
    assert known.order - 0.2 < slope < max(known.order, known.upto) + 0.2


def margin_of(known):
    """EDM takes no second time that is noisier than its sigma_max."""
    return 0.05 if known.method.kind == "scale-time" else 1e-3


@each_solver
@each_scheduler
def test_times_are_sorted_and_asked_where_the_grid_says(solver, scheduler):
    known, path = ALL_SOLVERS[solver], ALL_SCHEDULERS[scheduler]
    for nfe in known.nfes(1, 4, 9):
        grid = grids.log_snr(path, margin_of(known))
        params = known.params(nfe, path, grid=grid)
        assert np.all(np.diff(params.times) >= 0)
        assert params.times[-1] <= 1.0
        if known.on_grid:
            laid = grids.times(grid, (nfe - known.method.extra) // known.stages)
            assert_close(params.times[:: known.stages], laid[:-1], 1e-15)


@each_generic
def test_times_stay_sorted_in_floating_point(solver):
    known = ALL_SOLVERS[solver]
    for nfe in known.nfes(*range(1, 41)):
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
    for nfe in known.nfes(4, 6):
        times, _, b = known.params(nfe, None)
        assert_close(b.sum(axis=1), [*times[1:], 1.0], 1e-13)


@each_generic
def test_polynomials_in_time_below_the_order_are_integrated_exactly(solver):
    known = ALL_SOLVERS[solver]
    params = known.params(known.at_least(8), None)
    # Multistep methods start with lower order.
    for power in range(
        known.order if known.stages > 1 and not known.method.extra else 1
    ):
        got = run(params, lambda t, x, p=power: t**p + 0.0 * x, X0)[-1]
        assert_close(got, X0 + 1.0 / (power + 1), 1e-13)


@each_exponential
@each_scheduler
def test_a_constant_data_prediction_is_followed_exactly(solver, scheduler):
    """One data point: the prediction never changes, and the sample is that point."""
    known, path = ALL_SOLVERS[solver], ALL_SCHEDULERS[scheduler]
    point = Gaussian(path, mean=0.4, std=0.0)
    for nfe in known.nfes(1, 4, 9):
        params = known.params(nfe, path)
        got = run(params, point.velocity, X0)
        # EDM starts at a time of its own.
        start, *ends = [*params.times, 1.0]
        expected = np.stack([point.flow(start, t, X0) for t in ends])
        assert_close(got, expected, 1e-10)
        assert_close(got[-1], np.full(3, 0.4), 1e-10)


@each_exponential
@each_scheduler
def test_weights_are_finite_on_the_whole_interval(solver, scheduler):
    known, path = ALL_SOLVERS[solver], ALL_SCHEDULERS[scheduler]
    few = ("uniform", "log_snr", "karras")
    names = ALL_GRIDS if scheduler in ("cond_ot", "vp", "zero_terminal") else few
    laid = {name: ALL_GRIDS[name](path) for name in names}
    laid["log_snr"] = grids.log_snr(path, margin_of(known))
    nfe = known.at_least(8)
    for name, grid in laid.items():
        if repeats(name) and not takes_a_repeated_end(solver):
            with pytest.raises(ValueError, match="distinct times"):
                known.params(nfe, path, grid=grid)
            continue
        if known.method.kind == "scale-time" and name in NOISIER_THAN_EDM:
            continue
        for leaf in known.params(nfe, path, grid=grid):
            assert np.all(np.isfinite(leaf))


NOISIER_THAN_EDM = ("shifted", "from_times", "resampled", "linspace", "trailing")
"""Their second time may be noisier than EDM's sigma_max."""


def repeats(grid):
    return grid in ("karras_repeat", "linspace")


def takes_a_repeated_end(solver):
    """All but the singlestep ones, whose last step has evaluations inside."""
    known = ALL_SOLVERS[solver]
    return known.stages == 1 or known.method.kind in ("generic", "scale-time")


@pytest.mark.parametrize("name", [n for n in EXPONENTIAL if takes_a_repeated_end(n)])
def test_a_repeated_last_level_is_a_step_of_no_length(name):
    """UniPC's corrector moves the sample there; nothing else does."""
    known, path = ALL_SOLVERS[name], ALL_SCHEDULERS["vp"]
    if known.stages > 1:
        return
    times = np.linspace(START, END, 6)
    options = known.full_order
    once = known.params(known.nfe_of(5), path, grid=times, **options)
    twice = known.params(known.nfe_of(6), path, grid=[*times, END], **options)
    field = Gaussian(path, std=STDS)
    x = [run(params, field.velocity, X0)[-1] for params in (once, twice)]
    exact = field.flow(START, END, X0)
    if name.startswith("unipc"):
        errors = [np.max(np.abs(got - exact)) for got in x]
        assert errors[1] < errors[0]
    else:
        assert_close(x[1], x[0], 1e-12)


@pytest.mark.parametrize(
    "build",
    [
        solvers.ddim,
        lambda *of: solvers.dpm_solver(*of, 1),
        lambda *of: solvers.dpm_solver(*of, 1, steps="multi"),
        lambda *of: solvers.dpm_solver_pp(*of, 1),
        lambda *of: solvers.dpm_solver_pp(*of, 1, steps="single"),
        lambda *of: solvers.deis(*of, 1),
        lambda *of: solvers.deis(*of, 1, variable="log_rho"),
        lambda *of: solvers.ipndm(*of, 1),
    ],
)
def test_first_order_exponential_integrators_are_euler_on_cond_ot(build):
    """u = m - e there, so keeping the prediction is keeping the velocity."""
    params = build(5, schedulers.cond_ot())
    for leaf, expected in zip(params, solvers.euler(5), strict=True):
        assert_close(leaf, expected, 1e-13)


@each_solver
@each_scheduler
def test_more_steps_bring_it_to_the_flow(solver, scheduler):
    known, path = ALL_SOLVERS[solver], ALL_SCHEDULERS[scheduler]
    field, grid = Gaussian(path, std=STDS), grids.uniform(START, END)
    expected, errors = field.flow(START, END, X0), []
    # A table has kinks, over which the errors fall less evenly.
    for steps in (16, 128 if scheduler in SMOOTH_SCHEDULERS else 256):
        algorithm = known.algorithm(known.nfe_of(steps), path, grid=grid)
        errors.append(np.max(np.abs(algorithm(field.velocity, X0) - expected)))
    assert errors[1] < errors[0] / 4
    assert errors[1] < 0.05


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_last_time_that_repeats_is_a_step_of_no_length(order):
    method = solvers.AdamsBashforth(order=order)
    times = [0.0, 0.3, 0.8, 1.0]
    got, expected = (method.build(len(g) - 1, grid=g) for g in ([*times, 1.0], times))
    assert_close(got.b[-1], [*expected.b[-1], 0.0], 1e-15)


@pytest.mark.parametrize("prediction", ["noise", "data"])
@pytest.mark.parametrize("order", [1, 2])
def test_singlestep_between_ends_of_infinite_log_snr_is_ddim(prediction, order):
    """Both are of order 1, and nothing is left between them."""
    path = schedulers.cond_ot()
    method = solvers.DPMSinglestep(order=order, prediction=prediction)
    for leaf, expected in zip(
        method.build(2, path), solvers.ddim(2, path), strict=True
    ):
        assert_close(leaf, expected, 1e-14)
    with pytest.raises(ValueError, match=r"needs nfe >= 2, got 1|order"):
        method.build(1, path)


def test_adams_bashforth_knows_its_textbook_weights():
    """On equal steps, the weights of Hairer, Norsett and Wanner, table III.1.1."""
    textbook = {
        2: np.array([-1, 3]) / 2,
        3: np.array([5, -16, 23]) / 12,
        4: np.array([-9, 37, -59, 55]) / 24,
        5: np.array([251, -1274, 2616, -2774, 1901]) / 720,
        6: np.array([-475, 2877, -7298, 9982, -7923, 4277]) / 1440,
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
    for nfe in {n for n in (-1, 0, known.least - 1, 7, 8) if not known.fits(n)}:
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
        ([0.0, 0.5, 1.0], r"needs \d times, got shape \(3,\)"),
    ],
)
def test_bad_grids_are_named(solver, grid, message):
    known = ALL_SOLVERS[solver]
    if known.nfe_of(4) < known.least:
        return
    with pytest.raises(ValueError, match=message):
        known.params(known.nfe_of(4), ALL_SCHEDULERS["cond_ot"], grid=grid)


@pytest.mark.parametrize("order", [0, 9, -1])
def test_adams_bashforth_names_its_orders(order):
    with pytest.raises(ValueError, match=f"order must be from 1 to 8, got {order}"):
        solvers.adams_bashforth(8, order)


@pytest.mark.parametrize(
    ("build", "highest"),
    [
        (solvers.dpm_solver, 3),
        (solvers.dpm_solver_pp, 3),
        (solvers.deis, 4),
        (solvers.unipc, 3),
        (solvers.ipndm, 4),
    ],
)
def test_exponential_integrators_name_their_orders(build, highest):
    for order in (0, highest + 1):
        message = f"order must be from 1 to {highest}, got {order}"
        with pytest.raises(ValueError, match=message):
            build(8, schedulers.vp(), order)
    with pytest.raises(ValueError, match="order 3 needs nfe >= 3, got 2"):
        build(2, schedulers.vp(), 3)


@pytest.mark.parametrize(
    "build",
    [
        lambda: solvers.adams_bashforth(2, 3),
        lambda: solvers.dpm_solver_pp(1, schedulers.vp(), 2),
        lambda: solvers.build("unipc3", 2, schedulers.vp()),
    ],
)
def test_an_order_above_nfe_is_named(build):
    with pytest.raises(ValueError, match=r"order \d needs nfe >= \d, got \d"):
        build()


@pytest.mark.parametrize(
    "solver", [*EXPONENTIAL, *(name for name in GENERIC if name.startswith("ab"))]
)
def test_repeated_times_are_named(solver):
    known, path = ALL_SOLVERS[solver], ALL_SCHEDULERS["vp"]
    grid = [0.0, 0.3, 0.3, 0.6, 0.7, 0.8, 0.9]
    with pytest.raises(ValueError, match="distinct times"):
        known.params(known.nfe_of(6), path, grid=grid)


LEAPFROG = (1.0, 0.0), (0.0, 2.0)


def test_leapfrog_is_a_method_of_eq_53():
    """x_{i+1} = x_{i-1} + 2 h u_i, written out."""
    field, n = Logistic(), 12
    h, x = 1.0 / n, [X0, X0 + field.velocity(0.0, X0) / n]
    for i in range(1, n):
        x.append(x[i - 1] + 2 * h * field.velocity(i * h, x[i]))
    got = run(solvers.multistep(n, *LEAPFROG), field.velocity, X0)
    assert_close(got, np.stack(x[1:]), 1e-13)


@pytest.mark.parametrize(
    ("order", "weights"),
    [(1, (1,)), (2, (-1 / 2, 3 / 2)), (3, (5 / 12, -16 / 12, 23 / 12))],
)
def test_adams_bashforth_is_a_method_of_eq_53(order, weights):
    a = np.eye(order)[-1]
    got = solvers.multistep(9, a, weights)
    for leaf, expected in zip(got, solvers.adams_bashforth(9, order), strict=True):
        assert_close(leaf, expected, 1e-13)


def test_a_method_of_eq_53_starts_from_history():
    field, errors = Linear(), []
    for steps in (64, 128):
        h = (END - START) / steps
        x = field.flow(START, START - h, X0)
        history = [(START - h, x, field.velocity(START - h, x))]
        leapfrog = solvers.Multistep(*LEAPFROG, history)
        algorithm = leapfrog.algorithm(steps, grid=grids.uniform(START, END))
        x1 = algorithm(field.velocity, X0)
        errors.append(np.max(np.abs(x1 - field.flow(START, END, X0))))
    assert abs(np.log2(errors[0] / errors[1]) - 2.0) < 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, (), ()), "one weight per step, got 0 and 0"),
        ((4, (1.0,), (0.5, 0.5)), "one weight per step, got 1 and 2"),
        ((4, (0.5, 0.4), (0.0, 1.5)), r"a must sum to 1 .*, got 0\.9"),
        ((4, (1.0, 0.0), (0.0, 1.0)), r"b must sum to 2 .*, got 1\.0"),
        ((1, *LEAPFROG), "a method of 2 steps needs nfe >= 2, got 1"),
    ],
)
def test_weights_of_eq_53_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        solvers.multistep(*arguments)


@pytest.mark.parametrize("grid", [[0.0, 0.3, 1.0], [0.4, 0.4, 0.4]])
def test_a_method_of_eq_53_needs_equal_steps(grid):
    with pytest.raises(ValueError, match="needs equal steps, got times"):
        solvers.multistep(2, *LEAPFROG, grid=grid)


def test_solvers_are_found_by_name():
    path = schedulers.vp()
    pairs = [
        (solvers.build("rk4", 8, path), solvers.rk4(8)),
        (solvers.build("ab3", 8, path), solvers.adams_bashforth(8, 3)),
        (solvers.build("ddim", 8, path), solvers.ddim(8, path)),
        (solvers.build("dpm_solver_3s", 8, path), solvers.dpm_solver(8, path)),
        (solvers.build("dpm_solver_pp_2m", 8, path), solvers.dpm_solver_pp(8, path)),
        (solvers.build("deis_tab3", 8, path), solvers.deis(8, path)),
        (solvers.build("unipc2", 8, path), solvers.unipc(8, path)),
        (solvers.build("ipndm4", 8, path), solvers.ipndm(8, path)),
        (
            solvers.build("edm_heun", 7, path, sigma_max=20.0, rho=5.0),
            solvers.edm(7, path, sigma_max=20.0, rho=5.0),
        ),
        (
            solvers.build("unipc3", 7, path, kind="noise"),
            solvers.unipc(7, path, 3, kind="noise"),
        ),
    ]
    for got, expected in pairs:
        for leaf, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(leaf, other)


@pytest.mark.parametrize("name", list(solvers.CATALOGUE))
def test_every_solver_has_a_line_of_description_and_a_reference(name):
    entry = solvers.CATALOGUE[name]
    assert entry.description and "\n" not in entry.description
    assert entry.reference.startswith("eq. ") or "arXiv:" in entry.reference
    assert entry.kind in ("generic", "exponential", "scale-time")


def test_a_description_says_what_makes_a_method_another():
    pndm = solvers.PNDM(start="runge_kutta").description
    assert pndm == "PNDM, 4 points, from three steps of Runge-Kutta"
    assert solvers.Multistep(*LEAPFROG).description == "stationary method of 2 steps"


@pytest.mark.parametrize("name", list(solvers.CATALOGUE))
def test_options_are_fields_and_others_are_named(name):
    method = solvers.CATALOGUE[name]
    for option, field in method.options.items():
        value = getattr(method, field)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method, field, value)
        assert method.replace(**{option: value}) == method
    known = ", ".join(method.options) or "none"
    message = re.escape(f"{method.name} has no option 'color'; it has {known}") + "$"
    for call in (solvers.build, solvers.algorithm):
        with pytest.raises(ValueError, match=message):
            call(name, 8, schedulers.vp(), color=1)


TEXTBOOK = {
    # Kutta's: k2 at h / 2, k3 at h of -k1 + 2 k2, and 1/6, 2/3, 1/6.
    "rk3": (
        solvers.rk3,
        [0.0, 0.5, 1.0],
        [[1 / 2, 0, 0], [-1, 2, 0], [1 / 6, 2 / 3, 1 / 6]],
    ),
    # The trapezoid from 0 to 1/2, then Euler from there.
    "heun_euler": (
        solvers.heun_euler,
        [0.0, 0.5, 0.5],
        [[1 / 2, 0, 0], [1 / 4, 1 / 4, 0], [1 / 4, 1 / 4, 1 / 2]],
    ),
}


@pytest.mark.parametrize("name", TEXTBOOK)
def test_functions_give_the_coefficients_of_the_textbook(name):
    function, times, b = TEXTBOOK[name]
    got = function(3)
    assert_close(got.times, times, 1e-15)
    assert_close(got.a, np.ones(3), 1e-15)
    assert_close(got.b, b, 1e-15)


FUNCTIONS = {
    "ab2": solvers.adams_bashforth,
    "deis_tab3": solvers.deis,
    "dpm_solver_3s": solvers.dpm_solver,
    "dpm_solver_pp_2m": solvers.dpm_solver_pp,
    "edm_heun": solvers.edm,
    "ipndm4": solvers.ipndm,
    "pndm": solvers.pndm,
    "unipc2": solvers.unipc,
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_functions_know_options_and_defaults_of_their_method(name):
    method = solvers.CATALOGUE[name]
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    shared = parameters.keys() & method.options.keys()
    missing = method.options.keys() - shared
    assert missing <= {"history", "kind"} and shared
    for option in shared - {"order"} if name == "ab2" else shared:
        default = getattr(method, method.options[option])
        assert parameters[option].default == default


@pytest.mark.parametrize("name", list(solvers.CATALOGUE))
def test_a_solver_that_knows_its_path_asks_for_it(name):
    nfe = ALL_SOLVERS[name].at_least(5)
    for call in (solvers.build, solvers.algorithm):
        if solvers.CATALOGUE[name].kind == "generic":
            call(name, nfe, None)
        else:
            with pytest.raises(ValueError, match="expected its scheduler, got None"):
                call(name, nfe, None)


@pytest.mark.parametrize(
    ("a", "b", "order"),
    [
        (*LEAPFROG, 2),
        ((1.0,), (1.0,), 1),
        ((0.0, 0.0, 1.0), (5 / 12, -16 / 12, 23 / 12), 3),
        # Of highest order on two points, and unstable.
        ((5.0, -4.0), (2.0, 4.0), 3),
    ],
)
def test_weights_of_eq_53_show_their_order(a, b, order):
    assert solvers.Multistep(a, b).order == order


LOWERING = [n for n, entry in solvers.CATALOGUE.items() if entry.lowers]


@pytest.mark.parametrize("name", LOWERING)
def test_a_lowered_end_rests_on_fewer_evaluations(name):
    """A last step of order 1 is DDIM's, from the last point alone."""
    path, grid = ALL_SCHEDULERS["vp"], grids.uniform(START, END)
    full, low = (
        solvers.build(name, 8, path, grid, lower_order_final=lower)
        for lower in (False, True)
    )
    last = solvers.ddim(1, path, grid=[full.times[-1], END])
    step = low.b[-1] - last.a[-1] * low.b[-2]
    corrected = name.startswith("unipc")
    if not corrected:
        assert_close(step, [*np.zeros(7), last.b[0, 0]], 1e-13)
    lowers = not name.startswith("unipc1")
    assert (np.max(np.abs(full.b[-1] - low.b[-1])) > 1e-6) == lowers
    for default in ({}, {"lower_order_final": None}):
        got = solvers.build(name, 8, path, grid, **default)
        np.testing.assert_array_equal(got.b, low.b)
    many = solvers.build(name, 15, path, grid)
    expected = solvers.build(name, 15, path, grid, lower_order_final=corrected)
    np.testing.assert_array_equal(many.b, expected.b)


@pytest.mark.parametrize("build", [solvers.dpm_solver, solvers.dpm_solver_pp])
def test_a_last_step_of_order_1_is_ddims(build):
    path, grid = ALL_SCHEDULERS["vp"], grids.uniform(START, END)
    plain = build(8, path, grid=grid, steps="multi")
    euler = build(8, path, grid=grid, steps="multi", euler_at_final=True)
    last = solvers.ddim(1, path, grid=[plain.times[-1], END])
    assert_close(euler.b[:-1], plain.b[:-1], 0.0)
    step = euler.b[-1] - last.a[-1] * euler.b[-2]
    assert_close(step, [*np.zeros(7), last.b[0, 0]], 1e-13)


@pytest.mark.parametrize(
    "options", [{"lower_order_final": True}, {"euler_at_final": True}]
)
def test_singlestep_has_no_options_of_multistep(options):
    for build in (solvers.dpm_solver, solvers.dpm_solver_pp):
        with pytest.raises(ValueError, match='options of steps="multi"'):
            build(8, schedulers.vp(), steps="single", **options)


@pytest.mark.parametrize(
    ("name", "near"),
    [("dpm_solver_pp", "dpm_solver_pp_"), ("uni_pc2", "unipc2"), ("DDIM", "ddim|edm")],
)
def test_an_unknown_name_is_told_the_nearest(name, near):
    message = f"no solver is called '{name}'; the nearest are .*({near})"
    for call in (solvers.build, solvers.algorithm):
        with pytest.raises(ValueError, match=message):
            call(name, 8, schedulers.vp())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda p: solvers.deis(8, p, variable="t"), '"tab" or "log_rho", got \'t\''),
        (lambda p: solvers.unipc(8, p, variant="b1"), '"bh1" or "bh2", got \'b1\''),
        (lambda p: solvers.unipc(8, p, kind="eps"), '"noise" or "data", got \'eps\''),
        (lambda p: solvers.dpm_solver(8, p, steps="2"), '"single" or "multi", got'),
        (lambda p: solvers.edm(8, p, method="rk"), '"euler" or "heun", got \'rk\''),
        (lambda p: solvers.edm(8, p), "odd and positive, got 8"),
        (lambda p: solvers.edm(7, p, sigma_max=1e-3), "0 < sigma_min < sigma_max"),
    ],
)
def test_options_are_checked(build, message):
    with pytest.raises(ValueError, match=message):
        build(schedulers.vp())


ONE_A_STEP = [n for n, e in solvers.CATALOGUE.items() if e.stages == 1]


@pytest.mark.parametrize("name", ONE_A_STEP)
@each_scheduler
def test_sigmas_are_a_grid(name, scheduler):
    path = ALL_SCHEDULERS[scheduler]
    times = np.array([0.15, 0.3, 0.41, 0.55, 0.8, 1.0])
    params = solvers.from_sigmas(name, 1.0 / path.snr(times), path)
    nfe = 5 + solvers.CATALOGUE[name].extra
    expected = solvers.build(name, nfe, path, times)
    for leaf, other in zip(params, expected, strict=True):
        assert_close(leaf, other, 1e-9)
    asked = np.unique(np.round(levels(params, path), 8))
    assert_close(asked, np.sort(1.0 / path.snr(times[:-1])), 1e-7)


def levels(params, path):
    return path.sigma(params.times) / path.alpha(params.times)


def test_align_your_steps():
    """Published for Stable Diffusion 1.5, levels and time steps (Sabour et al., 2024).

    The levels are rounded to three decimals, the first of them above the schedule's.
    """
    sigmas = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152]
    timesteps = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    path = schedulers.from_alphas_cumprod(np.cumprod(1.0 - betas))
    for end in (0.029, 0.0):
        params = solvers.from_sigmas("dpm_solver_pp_2m", [*sigmas, end], path)
        assert_close(params.times[0], 0.0, 1e-12)
        read = [path.timestep(t) for t in params.times]
        np.testing.assert_allclose(read, timesteps, atol=0.7)
        np.testing.assert_allclose(levels(params, path), sigmas, rtol=1e-4)
    with pytest.raises(ValueError, match=r"got 14\.617"):
        solvers.from_sigmas("ddim", [14.617, 1.0, 0.0], path)


FLUX = [1.0, 0.96, 0.9, 0.75, 0.5, 0.0]


@pytest.mark.parametrize("name", ["euler", "ab2", "ddim", "dpm_solver_pp_2m"])
def test_flow_sigmas_are_one_minus_t(name):
    path = schedulers.cond_ot()
    expected = solvers.build(name, 5, path, 1.0 - np.array(FLUX))
    steps = 1000 * np.array(FLUX)
    for got in (
        solvers.from_flow_sigmas(name, FLUX, path),
        solvers.from_flow_sigmas(name, FLUX),
        solvers.from_flow_timesteps(name, steps[:-1], path),
        solvers.from_flow_timesteps(name, steps),
        solvers.from_flow_timesteps(name, steps / 10, steps=100),
    ):
        assert got.times[0] == 0.0
        for leaf, other in zip(got, expected, strict=True):
            assert_close(leaf, other, 1e-12)


def test_flow_sigmas_are_shares_on_any_path():
    path = schedulers.shifted(3.0, schedulers.cosine())
    times = solvers.from_flow_sigmas("euler", FLUX, path).times
    share = path.sigma(times) / (path.sigma(times) + path.alpha(times))
    assert_close(share, FLUX[:-1], 1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda **o: solvers.from_sigmas("euler", FLUX, **o), r"t = 0\.5"),
        (
            lambda **o: solvers.from_timesteps("ddim", [300, 100], **o),
            r"t = 0\.699",
        ),
        (lambda **o: solvers.from_timesteps("ddim", [600, 300, 100], **o), r"t = 0\.3"),
        (lambda **o: solvers.from_timesteps("ddim", [666, 333, 0], **o), None),
        (
            lambda **o: solvers.from_flow_sigmas("euler", [0.66, 0.3, 0.1, 0], **o),
            r"t = 0\.34",
        ),
        (
            lambda **o: solvers.from_flow_timesteps("euler", [500, 250], **o),
            r"t = 0\.5",
        ),
        (
            lambda **o: solvers.from_sigmas("euler", [9.0, 1.0, 0.0], **o),
            None,
        ),
    ],
)
def test_a_table_starts_where_the_noise_is(build, message):
    """x0 is pure noise, unless it is said to be noised to the first level."""
    path = schedulers.cond_ot()
    build(scheduler=path, partial=True)
    if message is None:
        build(scheduler=path)
        return
    with pytest.raises(ValueError, match=message + ".*from_flow_sigmas.*partial=True"):
        build(scheduler=path)


def test_ve_starts_at_its_own_noise():
    """Half of the noise in x0 would be too much."""
    with pytest.raises(ValueError, match="30 noise, and x0 is 80 noise"):
        solvers.from_sigmas("euler", [30.0, 1.0, 0.0], schedulers.ve(80.0))


@pytest.mark.parametrize("name", solvers.CATALOGUE)
def test_generic_solvers_alone_need_no_scheduler(name):
    if solvers.CATALOGUE[name].kind == "generic":
        nfe = 13 if name == "heun_euler" else 12
        assert len(solvers.build(name, nfe).times) == nfe
        solvers.algorithm(name, nfe)
        return
    for build in (solvers.build, solvers.algorithm):
        with pytest.raises(ValueError, match="expected its scheduler, got None"):
            build(name, 12)


def cosine_of_996():
    """The cosine schedule of 1,000 steps, of which the noisiest four are left out."""
    k = np.arange(1001) / 1000
    ends = np.cos((k + 0.008) / 1.008 * np.pi / 2) ** 2
    kept = np.cumprod(1.0 - np.minimum(1.0 - ends[1:] / ends[:-1], 0.999))
    return schedulers.from_alphas_cumprod(kept[:996])


@pytest.mark.parametrize("first", [999, 996, 995])
def test_timesteps_are_those_of_a_schedule_that_keeps_fewer(first):
    path = cosine_of_996()
    params = solvers.from_timesteps("ddim", [first, 749, 499, 249], path, steps=1000)
    read = [path.timestep(t) for t in params.times]
    assert_close(read, [995, 749, 499, 249], 1e-9)
    params = solvers.from_timesteps("ddim", [749, 499, 249], path, steps=1000)
    assert_close([path.timestep(t) for t in params.times], [749, 499, 249], 1e-9)


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_a_grid_of_timesteps_is_of_those_that_a_schedule_keeps(spacing):
    """The first of 1,000 is the noisiest of 996, and the others are themselves."""
    path = cosine_of_996()
    grid = grids.timesteps(spacing, 1000, scheduler=path)
    expected = {"trailing": [749, 499, 249], "linspace": [666, 333, 0]}[spacing]
    params = solvers.build("ddim", 4, path, grid)
    read = [path.timestep(t) for t in params.times]
    assert_close(read, [995, *expected], 1e-9)
    for name, kind in solvers.CATALOGUE.items():
        for build in (solvers.build, solvers.algorithm):
            with pytest.raises(
                ValueError, match=r"of 1000 training steps .* holds 996"
            ):
                build(name, 4 * kind.stages, path, grids.timesteps(spacing, 1000))
    with pytest.raises(ValueError, match=r"0 \.\. 995 of 1000: only the first"):
        solvers.build("ddim", 500, path, grid)
    own = grids.timesteps(spacing, scheduler=path)
    assert_close(path.timestep(own(996)[:-1]), np.arange(996)[::-1], 1e-9)


def test_timesteps_that_a_schedule_lacks_are_named():
    path = cosine_of_996()
    with pytest.raises(ValueError, match=r"0 \.\. 995 of 1000: only the first"):
        solvers.from_timesteps("ddim", [999, 997, 499], path, steps=1000)
    with pytest.raises(ValueError, match=r"has 996 steps, .* got steps=100"):
        solvers.from_timesteps("ddim", [99, 49], path, steps=100)


def test_a_table_may_end_at_step_0():
    path = schedulers.vp()
    params = solvers.from_timesteps("ddim", [999, 499], path, final="sigma_min")
    expected = solvers.ddim(2, path, grid=[0.0, 0.5, 0.999])
    for leaf, other in zip(params, expected, strict=True):
        assert_close(leaf, other, 1e-14)
    with pytest.raises(ValueError, match='"zero" or "sigma_min", got'):
        solvers.from_timesteps("ddim", [999, 499], path, final="data")


def test_tables_take_the_options_of_a_solver():
    path, times = schedulers.vp(), np.linspace(0.0, 0.9, 7)
    got = solvers.from_sigmas(
        "unipc3", 1.0 / path.snr(times), path, lower_order_final=False
    )
    expected = solvers.build("unipc3", 6, path, times, lower_order_final=False)
    for leaf, other in zip(got, expected, strict=True):
        assert_close(leaf, other, 1e-9)


def test_tables_count_the_evaluations_of_the_options():
    """PNDM as published makes nine more than one a step."""
    path, times = schedulers.vp(), np.linspace(0.0, 0.9, 7)
    for start, nfe in (("heun", 7), ("runge_kutta", 15)):
        got = solvers.from_sigmas("pndm", 1.0 / path.snr(times), path, start=start)
        expected = solvers.pndm(nfe, path, start=start, grid=times)
        for leaf, other in zip(got, expected, strict=True):
            assert_close(leaf, other, 1e-9)
    with pytest.raises(ValueError, match='"heun" or "runge_kutta", got'):
        solvers.from_sigmas("pndm", 1.0 / path.snr(times), path, start="euler")
    with pytest.raises(ValueError, match="edm_euler makes 2"):
        solvers.from_sigmas("edm_euler", 1.0 / path.snr(times), path, method="heun")


def test_timesteps_are_a_grid():
    path, steps = ALL_SCHEDULERS["alphas_cumprod"], np.array([99, 74, 49, 24])
    params = solvers.from_timesteps("dpm_solver_pp_2m", steps, path)
    assert_close([path.timestep(t) for t in params.times], steps, 1e-12)
    expected = solvers.build("dpm_solver_pp_2m", 4, path, [0.0, 0.25, 0.5, 0.75, 1.0])
    for leaf, other in zip(params, expected, strict=True):
        assert_close(leaf, other, 1e-12)
    params = solvers.from_timesteps("ddim", [999, 499], schedulers.vp())
    assert_close(params.times, [0.0, 0.5], 1e-15)


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([1.0, 2.0], "decreasing numbers, got"),
        ([2.0, np.nan, 0.0], "decreasing numbers, got"),
        ([2.0], "two or more"),
        ([1e4, 1.0, 0.0], r"sigmas must lie in \[0, 152.* got 10000"),
        ([1.0, 0.0, -1.0], "sigmas must not be negative, got -1"),
    ],
)
def test_sigmas_are_checked(sigmas, message):
    with pytest.raises(ValueError, match=message):
        solvers.from_sigmas("ddim", sigmas, schedulers.vp())


@pytest.mark.parametrize(
    ("timesteps", "message"),
    [
        ([10, 20], "decreasing numbers, got"),
        ([], "decreasing numbers, got"),
        ([100, 50], r"must lie in \[0, 99\], got"),
        ([50, -1], r"must lie in \[0, 99\], got"),
        ([np.nan], "decreasing numbers, got"),
    ],
)
def test_timesteps_are_checked(timesteps, message):
    with pytest.raises(ValueError, match=message):
        solvers.from_timesteps("ddim", timesteps, ALL_SCHEDULERS["alphas_cumprod"])


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([1.5, 0.5], r"of a flow model must lie in \[0, 1\], got 1.5 to 0.5; noise-to"),
        ([1.0, -0.5], r"must lie in \[0, 1\], got 1 to -0.5; noise-to"),
        ([0.5, 1.0], "decreasing numbers, got"),
    ],
)
def test_flow_sigmas_are_checked(sigmas, message):
    with pytest.raises(ValueError, match=message):
        solvers.from_flow_sigmas("euler", sigmas)


@pytest.mark.parametrize("timesteps", [[1001, 500], [500, -1]])
def test_flow_timesteps_are_checked(timesteps):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1000\], got \[\d"):
        solvers.from_flow_timesteps("euler", timesteps)


def test_tables_are_for_solvers_of_one_evaluation_a_step():
    path, message = schedulers.vp(), "heun makes 2; these make one: euler, .*ddim"
    with pytest.raises(ValueError, match=message):
        solvers.from_sigmas("heun", [2.0, 1.0, 0.0], path)
    with pytest.raises(ValueError, match=message):
        solvers.from_timesteps("edm_heun", [500, 200], path)
    with pytest.raises(ValueError, match="no solver is called 'dimm'"):
        solvers.from_timesteps("dimm", [500, 200], path)


def test_edm_starts_at_its_first_time():
    """Where the model has a noise-to-signal ratio of sigma_max, grid or no grid."""
    path = schedulers.cond_ot()
    for grid in (None, grids.uniform()):
        params = solvers.edm(5, path, sigma_max=40.0, grid=grid)
        assert_close(params.times[0], 1 / 41, 1e-12)
    with pytest.raises(ValueError, match=r"distinct times.* sigma_max = 40"):
        solvers.edm(5, path, sigma_max=40.0, grid=[0.0, 0.01, 0.5, 1.0])
    params = solvers.edm(5, path, sigma_max=40.0, grid=[0.01, 0.1, 0.5, 1.0])
    assert_close(params.times[0], 0.01, 1e-12)


def test_a_tableau_checks_itself():
    with pytest.raises(ValueError, match=r"wrong: b must sum to 1, got 0\.5"):
        solvers.Tableau("wrong", a=((),), b=(0.5,))
    with pytest.raises(ValueError, match="wrong: an explicit tableau of 2 stages"):
        solvers.Tableau("wrong", a=((), ()), b=(0.5, 0.5))


def build_all():
    """With every solver of every path."""
    with count_compilations() as compiled:
        for known in ALL_SOLVERS.values():
            for path in ALL_SCHEDULERS.values():
                for leaf in known.params(known.at_least(8), path):
                    assert type(leaf) is np.ndarray and leaf.dtype == np.float64, leaf
    assert not compiled, f"{len(compiled)} programs compiled"


def test_building_compiles_nothing_and_needs_no_x64():
    with jax.enable_x64(False):
        build_all()


@pytest.mark.exhaustive
def test_building_compiles_nothing_in_a_process_of_its_own():
    program = "from tests.test_solvers import build_all; build_all()"
    subprocess.run([sys.executable, "-c", program], check=True)
