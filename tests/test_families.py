"""Laws of the family of all solvers, and of preconditioned families."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bns_jax import families, grids, ns, schedulers
from bns_jax.families import BNSTheta
from tests.laws import (
    ALL_SCHEDULERS,
    ALL_SOLVERS,
    assert_close,
    first_cases,
    first_of,
    random_params,
)

NFE = 4

each_solver = pytest.mark.parametrize("solver", list(ALL_SOLVERS))

FAMILY = families.bns(ALL_SOLVERS["heun"].params(NFE, None))
TO_PARAMS = jax.jit(FAMILY.to_params)


def arrays(size, **bounds):
    return hnp.arrays(
        np.float64, size, elements=st.floats(allow_subnormal=False, **bounds)
    )


def thetas(n=NFE, **bounds):
    bounds = bounds or {"min_value": -1e3, "max_value": 1e3}
    sizes = n - 1, n, n * (n + 1) // 2
    return st.builds(BNSTheta, *(arrays(size, **bounds) for size in sizes))


@each_solver
def test_bns_keeps_its_start_exactly(solver):
    known = ALL_SOLVERS[solver]
    params = known.params(known.at_least(8), schedulers.vp())
    family = families.bns(params)
    for leaf, expected in zip(family.to_params(family.theta), params, strict=True):
        np.testing.assert_array_equal(leaf, expected)


def test_bns_keeps_a_first_time_that_is_not_zero():
    path = schedulers.cond_ot()
    params = ALL_SOLVERS["ddim"].params(6, path, grid=grids.karras(path))
    family = families.bns(params)
    assert params.times[0] > 0.01
    moved = family.theta._replace(times=-np.ones(5))
    assert_close(family.to_params(moved).times, np.full(6, params.times[0]), 0.0)


@each_solver
def test_a_free_start_keeps_the_solver_exactly(solver):
    known = ALL_SOLVERS[solver]
    params = known.params(known.at_least(8), schedulers.vp())
    family = families.bns(params, free_start=True)
    assert len(family.theta.times) == len(params.times)
    for leaf, expected in zip(family.to_params(family.theta), params, strict=True):
        np.testing.assert_array_equal(leaf, expected)


def test_a_free_start_moves_anywhere_in_the_interval():
    path = schedulers.cond_ot()
    params = ALL_SOLVERS["ddim"].params(4, path, grid=grids.karras(path))
    family = families.bns(params, free_start=True)
    moved = family.theta._replace(times=np.array([0.7, -1.0, 2.0, 0.3]))
    to_params = jax.jit(family.to_params)
    assert_close(to_params(moved).times, [0.0, 0.3, 0.7, 1.0], 0.0)
    jacobian = jax.jit(jax.jacobian(to_params))(family.theta)
    np.testing.assert_array_equal(jacobian.times.times, np.eye(4))


def test_bns_starts_in_the_precision_it_is_given():
    params = jax.tree.map(np.float32, ALL_SOLVERS["rk4"].params(8, None))
    family = families.bns(params)
    for leaf, expected in zip(family.to_params(family.theta), params, strict=True):
        assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(leaf, expected)


@given(thetas())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_every_theta_is_a_valid_solver(theta):
    params = TO_PARAMS(theta)
    ns.validate(params)
    assert params.times[0] == 0.0
    np.testing.assert_array_equal(params.a, theta.a)


@given(thetas(min_value=0.0, max_value=1.0))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_bns_reaches_every_solver(theta):
    target = ns.NSParams(
        np.array([0.0, *np.sort(theta.times)]), theta.a, np.zeros((NFE, NFE))
    )
    target.b[np.tril_indices(NFE)] = theta.b
    there = families.bns(target).theta
    for leaf, expected in zip(TO_PARAMS(there), target, strict=True):
        np.testing.assert_array_equal(leaf, expected)


@pytest.mark.parametrize("n", [1, 4, 8, 16])
def test_theta_has_the_free_numbers_of_the_family(n):
    """All but t_0, which is pinned."""
    theta = families.bns(ALL_SOLVERS["euler"].params(n, None)).theta
    assert sum(map(np.size, theta)) == ns.num_params(n) - 1


def test_bns_is_differentiable():
    """Every number moves its own entry of the solver and no other."""
    family = families.bns(random_params(np.random.default_rng(0), NFE))
    jacobian = jax.jit(jax.jacobian(family.to_params))(family.theta)
    lower = np.zeros((NFE, NFE, NFE * (NFE + 1) // 2))
    for k, (i, j) in enumerate(zip(*np.tril_indices(NFE), strict=True)):
        lower[i, j, k] = 1.0
    np.testing.assert_array_equal(jacobian.times.times, np.eye(NFE)[:, 1:])
    np.testing.assert_array_equal(jacobian.a.a, np.eye(NFE))
    np.testing.assert_array_equal(jacobian.b.b, lower)
    np.testing.assert_array_equal(jacobian.b.a, np.zeros((NFE, NFE, NFE)))


@pytest.mark.exhaustive
@pytest.mark.parametrize("scheduler", list(ALL_SCHEDULERS))
def test_a_source_of_unit_width_changes_no_family(scheduler):
    path = ALL_SCHEDULERS[scheduler]
    grid = grids.uniform(0.003, 0.996)  # away from nodes of tables
    family = families.bns(ALL_SOLVERS["midpoint"].params(NFE, path, grid=grid))
    same = families.preconditioned(family, path, 1.0)
    got = jax.jit(same.to_params)(family.theta)
    for leaf, expected in zip(got, family.to_params(family.theta), strict=True):
        assert_close(leaf, expected, 1e-9)


@pytest.mark.parametrize(
    ("scheduler", "sigma_0"),
    first_cases(
        [*((name, 5.0) for name in ALL_SCHEDULERS), ("cond_ot", 0.5), ("ve", 0.5)],
        ("ve", 0.5),
    ),
)
def test_a_preconditioned_family_is_made_of_valid_solvers(scheduler, sigma_0):
    path = ALL_SCHEDULERS[scheduler]
    family = families.bns(ALL_SOLVERS["midpoint"].params(2, path))
    family = families.preconditioned(family, path, sigma_0)
    to_params = jax.jit(family.to_params)
    ns.validate(to_params(family.theta))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        noisy = [leaf + 0.1 * rng.normal(size=leaf.shape) for leaf in family.theta]
        ns.validate(to_params(BNSTheta(*noisy)))


@pytest.mark.exhaustive
@pytest.mark.parametrize("solver", first_of(["midpoint", "heun"], "heun"))
def test_gradients_of_a_preconditioned_family_are_finite(solver):
    """Also where a time has come to 1."""
    path = schedulers.cond_ot()
    family = families.bns(ALL_SOLVERS[solver].params(2, path))
    family = families.preconditioned(family, path, 5.0)

    @jax.jit
    @jax.grad
    def gradient(theta):
        return sum(jnp.sum(jnp.square(leaf)) for leaf in family.to_params(theta))

    for times in (family.theta.times, family.theta.times + 0.5):
        for leaf in gradient(family.theta._replace(times=times)):
            assert np.all(np.isfinite(leaf))


def test_only_valid_solvers_start_a_family():
    start = ALL_SOLVERS["euler"].params(3, None)
    with pytest.raises(ValueError, match="times must be sorted"):
        families.bns(start._replace(times=np.array([0.0, 0.6, 0.3])))


@pytest.mark.parametrize("sigma_0", [0.0, -2.0])
def test_the_width_of_the_source_is_checked(sigma_0):
    with pytest.raises(ValueError, match=f"must be positive and finite, got {sigma_0}"):
        families.preconditioned(FAMILY, schedulers.vp(), sigma_0)
