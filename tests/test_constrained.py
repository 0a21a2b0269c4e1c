"""Laws of constrained families: what every member is exact for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from numpy.polynomial import Polynomial

from bns_jax import families, ns, schedulers
from tests.laws import ALL_SOLVERS, assert_close, first_of, random_params, run

DEGREES = [1, 2, 3]
STARTS = ["euler", "midpoint", "heun", "rk3", "rk4", "ab3", "ddim", "edm_heun"]

each_degree = pytest.mark.parametrize("degree", DEGREES)
degree_three = pytest.mark.parametrize("degree", first_of(DEGREES, 3))
each_start = pytest.mark.parametrize("start", first_of(STARTS, "heun", "ab3"))


def start_params(start, nfe=8):
    known = ALL_SOLVERS[start]
    return known.params(known.at_least(nfe), schedulers.cond_ot())


def perturbed(theta, seed, scale):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) + scale * rng.normal(size=leaf.shape), theta
    )


def member(family, scale=0.0, seed=0):
    """The start, or a member near it."""
    return jax.jit(family.to_params)(perturbed(family.theta, seed, scale))


def jitted(family):
    """The same, of which `constrained` asks the start of one program."""
    return family._replace(to_params=jax.jit(family.to_params))


def moments(params, degree):
    """The errors of each row on 1, t, t^2 .., as (n, degree) with t_n = 1."""
    times, _, b = map(np.asarray, params)
    powers = np.arange(degree)
    ends = np.append(times[1:], 1.0)[:, None] ** (powers + 1)
    exact = (ends - times[0] ** (powers + 1)) / (powers + 1)
    return b @ times[:, None] ** powers - exact


def room(times, degree):
    """How many conditions each row of a start can keep."""
    distinct = [len(np.unique(times[: i + 1].round(6))) for i in range(len(times))]
    return np.minimum(degree, distinct)


def assert_exact(params, conditions, tolerance=1e-11):
    size = 1.0 + np.max(np.abs(params.b))
    errors = moments(params, max(conditions))
    for row, kept in zip(errors, conditions, strict=True):
        assert_close(row[:kept], np.zeros(kept), tolerance * size)


@each_start
@each_degree
def test_every_member_is_exact_for_polynomials(start, degree):
    """Also where training has moved evaluations apart that began at one time."""
    params = start_params(start)
    family = families.constrained(families.bns(params), degree)
    to_params = jax.jit(family.to_params)
    for seed, scale in enumerate([0.0, 1e-6, 0.01, 0.1]):
        got = to_params(perturbed(family.theta, seed, scale))
        ns.validate(got)
        np.testing.assert_array_equal(got.a, np.ones(len(params.a)))
        conditions = room(params.times, degree)
        if scale == 0.1:  # then some times may meet
            conditions = np.minimum(conditions, room(np.asarray(got.times), degree))
        assert_exact(got, conditions)
        assert np.max(np.abs(got.b)) < 30.0 or scale == 0.1


@degree_three
def test_iterates_follow_a_trajectory_of_polynomial_velocity(rng, degree):
    """Run as a solver, each iterate is the sample at its own time."""
    family = families.constrained(families.bns(random_params(rng, 6)), degree)
    params = member(family, 0.1)
    times = np.asarray(params.times)
    velocity = Polynomial(rng.normal(size=degree))
    x = velocity.integ(lbnd=times[0])
    got = run(params, lambda t, _: np.full(1, velocity(t)), np.ones(1))[:, 0]
    expected = 1.0 + x(np.append(times[1:], 1.0))
    size = 1.0 + np.max(np.abs(params.b))
    assert_close(got[degree - 1 :], expected[degree - 1 :], 1e-11 * size)


@degree_three
def test_the_change_is_the_least_that_does_it(rng, degree):
    """Row by row, that of NumPy's pseudo-inverse."""
    params = random_params(rng, 7)
    got = member(families.constrained(families.bns(params), degree))
    times, errors = params.times, moments(params, degree)
    for i, kept in enumerate(room(times, degree)):
        conditions = times[None, : i + 1] ** np.arange(kept)[:, None]
        expected = params.b[i, : i + 1] - np.linalg.pinv(conditions) @ errors[i, :kept]
        assert_close(got.b[i, : i + 1], expected, 1e-9)


@pytest.mark.parametrize("start", ["euler", "midpoint", "heun", "rk4", "ab3"])
def test_a_consistent_solver_is_not_changed(start):
    params = start_params(start)
    family = families.constrained(families.bns(params), 1)
    for leaf, expected in zip(member(family), params, strict=True):
        assert_close(leaf, expected, 1e-15)


@pytest.mark.parametrize("start", ["midpoint", "heun"])
def test_one_step_of_order_two_satisfies_degree_two(start):
    params = start_params(start, 2)
    family = families.constrained(families.bns(params), 2)
    assert_close(member(family).b, params.b, 1e-14)


@pytest.mark.exhaustive
@pytest.mark.parametrize("start", first_of(["heun", "ab3", "edm_heun"], "heun"))
@each_degree
def test_constraining_twice_is_constraining_once(start, degree):
    once = families.constrained(families.bns(start_params(start, 4)), degree)
    once = jitted(once)
    twice = families.constrained(once, degree)
    assert_close(member(twice, 0.01).b, member(once, 0.01).b, 1e-12)


@degree_three
def test_the_error_falls_with_the_interval_as_promised(degree):
    """x' = h x (1 - x) on [0, 1] is x' = x (1 - x) on [0, h]."""
    family = families.constrained(families.bns(start_params("euler", 5)), degree)
    params = member(family, 0.1, seed=1)
    x0 = np.array([0.2, 0.3])
    hs = 2.0 ** -np.arange(3, 8)

    def error(h):
        exact = 1 / (1 + (1 / x0 - 1) * np.exp(-h))
        got = run(params, lambda t, x: h * x * (1 - x), x0)[-1]
        return np.max(np.abs(got - exact))

    slope = np.polyfit(np.log(hs), np.log([error(h) for h in hs]), 1)[0]
    assert abs(slope - min(degree + 1, 3)) < 0.15


@functools.cache
def six_evaluations(degree):
    family = families.constrained(families.bns(start_params("euler", 6)), degree)
    return family.theta, jax.jit(family.to_params)


@degree_three
@given(times=st.lists(st.sampled_from([-1.0, 0.0, 0.3, 0.3, 0.8, 2.0]), min_size=5))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_times_that_meet_leave_a_finite_solver(degree, times):
    """It keeps as many conditions as are left to keep."""
    start, to_params = six_evaluations(degree)
    params, pull = jax.vjp(to_params, start._replace(times=jnp.asarray(times[:5])))
    ns.validate(params)
    assert_exact(params, room(np.asarray(params.times), degree))
    (gradient,) = pull(params)
    assert all(np.all(np.isfinite(leaf)) for leaf in gradient)


@degree_three
def test_constrained_families_are_differentiable(degree):
    family = families.constrained(families.bns(start_params("midpoint", 4)), degree)
    theta = perturbed(family.theta, seed=0, scale=0.02)
    check_grads(jax.jit(family.to_params), (theta,), order=1, modes=["rev"])


@degree_three
def test_the_first_time_need_not_be_zero(rng, degree):
    params = random_params(rng, 5)
    family = families.bns(params, free_start=True)
    family = families.constrained(family, degree)
    got = member(family, 0.03)
    assert got.times[0] > 0 and got.times[0] != params.times[0]
    assert_exact(got, room(np.asarray(got.times), degree))


@pytest.mark.exhaustive
def test_the_last_of_two_combinators_has_its_way():
    family = families.bns(start_params("midpoint", 2))
    path = schedulers.cosine()
    kept = families.constrained(jitted(families.preconditioned(family, path, 3.0)), 2)
    lost = families.preconditioned(families.constrained(family, 2), path, 3.0)
    got = member(kept)
    assert_exact(got, room(np.asarray(got.times), 2))
    assert np.max(np.abs(moments(member(lost), 1))) > 0.1


def test_scale_time_solvers_can_be_constrained():
    family = families.constrained(jitted(families.bst("midpoint", 4)), 2)
    got = member(family, 0.1)
    assert_exact(got, room(np.asarray(got.times), 2))


def test_single_precision_is_kept():
    params = jax.tree.map(np.float32, start_params("heun"))
    family = families.constrained(families.bns(params), 2)
    got = jax.jit(family.to_params)(family.theta)
    assert {leaf.dtype for leaf in got} == {np.dtype(np.float32)}
    assert_exact(got, room(params.times, 2), 1e-5)


@pytest.mark.parametrize("degree", [0, -1, 9])
def test_the_degree_is_checked(degree):
    message = rf"degree must lie in 1 \.\. nfe = 8, got {degree}"
    with pytest.raises(ValueError, match=message):
        families.constrained(families.bns(start_params("euler")), degree)
