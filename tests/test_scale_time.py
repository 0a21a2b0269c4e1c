"""Laws of scale-time transformations (eq. 6-8, eq. 14)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import grids, ns, scale_time, schedulers, velocity
from bns_jax.scale_time import ScaleTime, between, change, precondition
from tests.fields import Gaussian, Logistic, wavy
from tests.laws import (
    ALL_SCHEDULERS,
    ALL_SOLVERS,
    SMOOTH_SCHEDULERS,
    assert_close,
    first_of,
    random_params,
    run,
)

X0 = np.array([-1.1, 0.3, 0.9])
INTERIOR = np.arange(4, 96, 4) / 100 + 0.005  # away from nodes of tables
WHOLE = np.linspace(0.0, 1.0, 101)

each_scheduler = pytest.mark.parametrize("scheduler", list(ALL_SCHEDULERS))
each_source = pytest.mark.parametrize("source", list(ALL_SCHEDULERS))
each_target = pytest.mark.parametrize("target", list(ALL_SCHEDULERS))

VARIANCE_PRESERVING = ("vp", "alphas_cumprod", "zero_terminal")
"""Their sigma' diverges at t = 1, and so do the rates of changes that meet it."""


@dataclasses.dataclass(frozen=True)
class Wider:
    """(alpha, sigma_0 sigma) of eq. 14, as far as closed forms need it."""

    base: Any
    sigma_0: float

    def alpha(self, t):
        return self.base.alpha(t)

    def sigma(self, t):
        return self.sigma_0 * self.base.sigma(t)

    def d_alpha(self, t):
        return self.base.d_alpha(t)

    def d_sigma(self, t):
        return self.sigma_0 * self.base.d_sigma(t)


def reached(source, target, r):
    """The part of r at which the target is no noisier than the source ever is."""
    return r[target.snr(r) > 1.01 * source.snr(0.0)]


def away_from_kinks(scale, path, r):
    """Drops r whose image is next to a node of a tabulated schedule."""
    if not isinstance(path, schedulers.DiscreteVP):
        return r
    steps = len(path.log_alphas) - 1
    phase = (steps * scale.t(r)) % 1.0
    return r[(phase > 1e-3) & (phase < 1 - 1e-3)]


def in_jax(value):
    """On the whole interval: one shape, for which all operations are compiled once."""
    return np.asarray(value(jnp.asarray(WHOLE)))


def assert_identity(change):
    assert_close(change.t(INTERIOR), INTERIOR, 1e-12)
    assert_close(change.s(INTERIOR), np.ones_like(INTERIOR), 1e-12)
    assert_close(change.d_t(INTERIOR), np.ones_like(INTERIOR), 1e-11)
    assert_close(change.d_s(INTERIOR), np.zeros_like(INTERIOR), 1e-11)
    for end in (0.0, 1.0):
        assert_close(change.t(end), end, 1e-15)
        assert_close(change.s(end), 1.0, 1e-15)


@each_scheduler
def test_a_change_of_scheduler_to_itself_is_the_identity(scheduler):
    path = ALL_SCHEDULERS[scheduler]
    assert_identity(between(path, path))


@each_scheduler
def test_a_source_of_unit_width_is_the_identity(scheduler):
    assert_identity(precondition(ALL_SCHEDULERS[scheduler], 1.0))


def test_identity_is_the_identity():
    assert_identity(scale_time.identity())


@each_source
@each_target
def test_eq_8_holds(source, target):
    source, target = ALL_SCHEDULERS[source], ALL_SCHEDULERS[target]
    change, r = between(source, target), reached(source, target, INTERIOR)
    assert len(r) > 15
    t, s = change.t(r), change.s(r)
    assert_close(s * source.alpha(t), target.alpha(r), 1e-11)
    assert_close(s * source.sigma(t), target.sigma(r), 1e-11)


@each_scheduler
@pytest.mark.parametrize("sigma_0", [0.3, 5.0])
def test_preconditioning_widens_the_source_alone(scheduler, sigma_0):
    path = ALL_SCHEDULERS[scheduler]
    change = precondition(path, sigma_0)
    r = INTERIOR[path.snr(INTERIOR) / sigma_0 > 1.01 * path.snr(0.0)]
    t, s = change.t(r), change.s(r)
    assert_close(s * path.alpha(t), path.alpha(r), 1e-11)
    assert_close(s * path.sigma(t), sigma_0 * path.sigma(r), 1e-11)


@each_source
@each_target
def test_rates_are_those_of_autodiff(source, target):
    source, target = ALL_SCHEDULERS[source], ALL_SCHEDULERS[target]
    change = between(source, target)
    r = reached(source, target, INTERIOR)
    r = away_from_kinks(change, source, r)
    h = 1e-6 * np.minimum(r, 1 - r)
    for value, rate in ((change.t, change.d_t), (change.s, change.d_s)):
        slope = (value(r + h) - value(r - h)) / (2 * h)
        np.testing.assert_allclose(rate(r), slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SMOOTH_SCHEDULERS)
def test_a_wider_source_has_the_snr_of_its_width(name):
    base, t = ALL_SCHEDULERS[name], np.linspace(0.05, 0.95, 7)
    noisier = change._Noisier(base, 3.0)
    assert_close(noisier.snr(t), base.snr(t) / 3.0, 1e-12)
    for inverse, values in (
        (noisier.snr_inverse, base.snr(t) / 3.0),
        (noisier.log_snr_inverse, base.log_snr(t) - np.log(3.0)),
    ):
        assert_close(inverse(values), t, 1e-9)


@pytest.mark.parametrize("source", first_of(ALL_SCHEDULERS, "zero_terminal"))
def test_autodiff_of_t_and_s_gives_the_rates(source):
    source, target = ALL_SCHEDULERS[source], schedulers.shifted(2.0)
    change = between(source, target)
    r = away_from_kinks(change, source, reached(source, target, INTERIOR))
    kept = np.isin(INTERIOR, r)
    assert np.sum(kept) > 15
    inside, one = jnp.asarray(INTERIOR), jnp.ones(len(INTERIOR))
    for value, rate in ((change.t, change.d_t), (change.s, change.d_s)):
        slope = jax.jit(lambda r, value=value: jax.jvp(value, (r,), (one,))[1])(inside)
        np.testing.assert_allclose(rate(r), slope[kept], rtol=1e-8, atol=1e-10)


@each_source
@each_target
def test_ends_go_to_ends_and_scales_are_positive(source, target):
    source, target = ALL_SCHEDULERS[source], ALL_SCHEDULERS[target]
    change = between(source, target)
    for t, s in (
        (change.t(WHOLE), change.s(WHOLE)),
        (in_jax(change.t), in_jax(change.s)),
    ):
        assert_close(t[-1], 1.0, 1e-15)
        assert_close(source.snr(t[0]), max(source.snr(0.0), target.snr(0.0)), 1e-12)
        assert np.all(np.isfinite(t)) and np.all(np.diff(t) >= 0)
        assert np.all(np.isfinite(s)) and np.all(s > 0)


@each_source
@each_target
def test_rates_are_finite_at_the_ends(source, target):
    change = between(ALL_SCHEDULERS[source], ALL_SCHEDULERS[target])
    singular = source in VARIANCE_PRESERVING or target in VARIANCE_PRESERVING
    for rate in (change.d_t, change.d_s):
        for end in (0,) if singular else (0, -1):
            assert np.isfinite(rate(WHOLE[end]))
            assert np.isfinite(in_jax(rate)[end])


POWERS = {
    "ve_1.5": schedulers.ve(80.0, 1.5),
    "ve_2": schedulers.ve(3.0, 2.0),
    "ve_7": schedulers.ve(80.0, 7.0),
    "shifted_ve_7": schedulers.shifted(3.0, schedulers.ve(80.0, 7.0)),
}
"""Their sigma falls to 0 as another power than 1 of the time that is left."""

EVERY = ALL_SCHEDULERS | POWERS


@pytest.mark.parametrize("source", EVERY)
@pytest.mark.parametrize("target", EVERY)
def test_ends_are_the_limits_of_what_is_inside(source, target):
    """Finite where these are, and never nan."""
    steps = np.array([1e-3, 1e-4])
    for value in between(EVERY[source], EVERY[target]):
        whole = in_jax(value)
        for end, inside in ((0, steps), (-1, 1.0 - steps)):
            far, near = value(inside)
            got = float(value(WHOLE[end]))
            np.testing.assert_allclose(whole[end], got, rtol=1e-9, atol=1e-9)
            assert np.isfinite(got) or abs(near) > 1.1 * abs(far)
            if np.isfinite(got) and end == -1:
                slack = 0.05 * abs(got) + 8 * abs(near - far) + 1e-6
                assert abs(got - near) < slack


@pytest.mark.parametrize(
    ("source", "target", "d_t", "d_s"),
    [
        ("ve_7", "ve_7", 1.0, 0.0),
        ("vp", "vp", 1.0, 0.0),
        ("cosine", "vp", np.inf, 0.0),
        ("vp", "cond_ot", 0.0, 1.0),
        ("ve_7", "cond_ot", np.inf, 1.0),
        ("ve_7", "shifted_ve_7", 3.0, 0.0),
        ("ve_2", "ve_7", 0.0, 0.0),
        ("ve_7", "ve_2", np.inf, 0.0),
    ],
)
def test_rates_at_the_end_of_known_powers(source, target, d_t, d_s):
    change = between(EVERY[source], EVERY[target])
    assert_close(change.t(1.0), 1.0, 0)
    np.testing.assert_allclose(change.d_t(1.0), d_t, rtol=1e-6)
    np.testing.assert_allclose(change.d_s(1.0), d_s, rtol=1e-6)


SMOOTH_ENDS = [name for name in SMOOTH_SCHEDULERS if name not in VARIANCE_PRESERVING]


@pytest.mark.parametrize("scheduler", first_of(SMOOTH_ENDS, "cond_ot"))
def test_autodiff_of_t_is_finite_at_the_ends(scheduler):
    change = precondition(ALL_SCHEDULERS[scheduler], 5.0)

    @jax.jit
    @jax.vmap
    def slopes(r):
        return [jax.grad(value)(r) for value in change]

    assert np.all(np.isfinite(slopes(np.array([0.0, 1.0]))))


@each_source
@each_target
def test_eq_7_turns_the_velocity_of_one_path_into_that_of_the_other(source, target):
    source, target = ALL_SCHEDULERS[source], ALL_SCHEDULERS[target]
    vf = scale_time.transform(Gaussian(source).velocity, between(source, target))
    for r in reached(source, target, INTERIOR[::5]):
        assert_close(vf(r, X0), Gaussian(target).velocity(r, X0), 1e-9)


def warp():
    """A transformation of no scheduler."""
    return ScaleTime(
        t=lambda r: r**2 * (3.0 - 2.0 * r),
        s=lambda r: 1.0 + 0.5 * r,
        d_t=lambda r: 6.0 * r * (1.0 - r),
        d_s=lambda r: 0.5 + 0.0 * r,
    )


def test_eq_7_carries_transformed_trajectories():
    field, change, x0 = Logistic(), warp(), jnp.asarray([0.2, 0.5, 0.7])
    vf = scale_time.transform(field.velocity, change)

    def x_bar(r):
        return change.s(r) * field.flow(0.0, change.t(r), x0)

    for r in map(jnp.asarray, (0.0, 0.3, 0.8, 1.0)):
        x, rate = jax.jvp(x_bar, (r,), (jnp.ones(()),))
        assert_close(vf(r, x), rate, 1e-12)


def transformed_run(params, change, vf, x0):
    """Runs params on x_bar, by hand: in, eq. 7 at each call, out."""

    at = dict(
        zip(
            params.times,
            zip(*(f(params.times) for f in change), strict=True),
            strict=True,
        )
    )

    def u_bar(r, x):
        t, s, d_t, d_s = at[r]
        return d_s / s * x + d_t * s * vf(t, x / s)

    return run(params, u_bar, change.s(params.times[0]) * x0)[-1] / change.s(1.0)


def solver_params(solver, scheduler):
    known = ALL_SOLVERS[solver]
    grid = grids.uniform(0.004, 1.0)  # away from nodes of tables
    params = known.params(known.at_least(8), ALL_SCHEDULERS[scheduler], grid=grid)
    if scheduler in VARIANCE_PRESERVING and params.times[-1] == 1.0:
        pytest.skip("asks for the velocity at t = 1, where this path has none")
    return params


@each_scheduler
@pytest.mark.parametrize("solver", list(ALL_SOLVERS))
def test_a_folded_solver_is_the_preconditioned_run(solver, scheduler):
    params = solver_params(solver, scheduler)
    for sigma_0 in (0.4, 5.0):
        change = precondition(ALL_SCHEDULERS[scheduler], sigma_0)
        folded = scale_time.fold(params, change)
        expected = transformed_run(params, change, wavy, X0)
        assert_close(run(folded, wavy, X0)[-1], expected, 1e-10)


@pytest.mark.parametrize("scheduler", ["cond_ot", "cosine", "shifted"])
def test_a_folded_solver_is_the_run_on_the_wider_path(scheduler):
    """The preconditioned field of Gaussian data is known in closed form."""
    path = ALL_SCHEDULERS[scheduler]
    params = ALL_SOLVERS["midpoint"].params(8, path)
    folded = scale_time.fold(params, precondition(path, 5.0))
    wide = Gaussian(Wider(path, 5.0))
    expected = run(params, wide.velocity, 5.0 * X0)[-1]
    assert_close(run(folded, Gaussian(path).velocity, X0)[-1], expected, 1e-10)


@each_scheduler
def test_a_source_of_unit_width_folds_to_the_solver_itself(scheduler):
    params = solver_params("midpoint", scheduler)
    folded = scale_time.fold(params, precondition(ALL_SCHEDULERS[scheduler], 1.0))
    for leaf, expected in zip(folded, params, strict=True):
        assert_close(leaf, expected, 1e-10)


def test_folding_any_transformation_is_running_under_it(rng):
    params = random_params(rng, 6)
    folded = scale_time.fold(params, warp())
    expected = transformed_run(params, warp(), wavy, X0)
    assert_close(run(folded, wavy, X0)[-1], expected, 1e-12)
    assert_close(folded.times, warp().t(params.times), 1e-15)


def test_under_starts_and_ends_where_it_is_told():
    field, change, x0 = Logistic(), warp(), np.array([0.2, 0.5, 0.7])
    start, end, steps = 0.2, 0.9, 200
    grid = np.linspace(start, end, steps + 1)
    algorithm = ALL_SOLVERS["rk4"].algorithm(4 * steps, None, grid=grid)
    got = scale_time.under(algorithm, change, start, end)(field.velocity, x0)
    assert_close(got, field.flow(change.t(start), change.t(end), x0), 1e-9)


def test_folding_is_differentiable_up_to_the_ends(rng):
    """Against central differences of the same map on NumPy arrays."""
    change = precondition(schedulers.cond_ot(), 5.0)
    params = random_params(rng, 3)._replace(times=np.array([0.0, 0.4, 1.0]))

    def size(params):
        return sum((leaf**2).sum() for leaf in scale_time.fold(params, change))

    gradient = jax.jit(jax.grad(size))(jax.tree.map(jnp.asarray, params))
    for name in ("times", "a", "b"):
        for index in map(tuple, np.argwhere(getattr(params, name))):
            h = 1e-6
            if name == "times" and params.times[index] in (0.0, 1.0):
                continue
            moved = []
            for step in (h, -h):
                leaf = getattr(params, name).copy()
                leaf[index] += step
                moved.append(size(params._replace(**{name: leaf})))
            slope = (moved[0] - moved[1]) / (2 * h)
            np.testing.assert_allclose(
                getattr(gradient, name)[index], slope, rtol=1e-5, atol=1e-5
            )
    assert all(np.all(np.isfinite(leaf)) for leaf in gradient)


@each_source
@each_target
def test_a_rescheduled_velocity_is_that_of_the_target_path(source, target):
    source, target = ALL_SCHEDULERS[source], ALL_SCHEDULERS[target]
    vf = velocity.from_data(Gaussian(source).data, source)
    rescheduled = scale_time.RescheduledVelocity(vf, target)
    by_eq_7 = scale_time.transform(vf, between(source, target))
    for r in map(jnp.asarray, reached(source, target, INTERIOR[[3, 20]])):
        u = Gaussian(target).velocity(r, jnp.asarray(X0))
        assert_close(rescheduled(r, jnp.asarray(X0)), u, 1e-9)
        assert_close(by_eq_7(r, jnp.asarray(X0)), u, 1e-9)


@pytest.mark.parametrize("source", VARIANCE_PRESERVING)
def test_eps_prediction_rescheduled_to_cond_ot_is_finite_up_to_the_end(source):
    source, target = ALL_SCHEDULERS[source], schedulers.cond_ot()
    vf = velocity.from_epsilon(Gaussian(source).epsilon, source)
    assert not np.all(np.isfinite(vf(1.0, jnp.asarray(X0))))
    u = scale_time.RescheduledVelocity(vf, target)(1.0, jnp.asarray(X0))
    assert_close(u, Gaussian(target).velocity(1.0, X0), 1e-12)


def test_a_rescheduled_velocity_keeps_dtype_and_weights():
    def apply(weights, t, x):
        return weights.astype(x.dtype) * x

    network = jax.tree_util.Partial(apply, jnp.asarray(0.3))
    vf = velocity.from_epsilon(network, schedulers.vp())
    rescheduled = scale_time.RescheduledVelocity(vf, schedulers.cond_ot())
    assert len(jax.tree.leaves(rescheduled)) == 1
    for dtype in (jnp.bfloat16, jnp.float32):
        assert rescheduled(0.5, jnp.asarray(X0, dtype)).dtype == dtype


@pytest.mark.parametrize("sigma_0", [0.0, -1.0, float("nan")])
def test_the_width_of_the_source_is_checked(sigma_0):
    with pytest.raises(ValueError, match="sigma_0 must be positive"):
        precondition(schedulers.vp(), sigma_0)


def test_folding_onto_a_singular_time_is_refused():
    params = ALL_SOLVERS["heun"].params(4, None)
    with pytest.raises(ValueError, match="singular at one of the times"):
        scale_time.fold(params, between(schedulers.cond_ot(), schedulers.vp()))
    ns.validate(scale_time.fold(params, precondition(schedulers.vp(), 5.0)))


def test_folded_solvers_are_valid():
    for name in SMOOTH_ENDS:
        folded = scale_time.fold(
            ALL_SOLVERS["rk4"].params(8, None), precondition(ALL_SCHEDULERS[name], 5.0)
        )
        ns.validate(folded)
