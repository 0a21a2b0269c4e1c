"""Laws of a Gauss-Newton step: its algebra, and its safety."""

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from bns_jax import NSParams, distill, families, ns, solvers
from bns_jax.distill.algebra import in_two
from bns_jax.distill.gauss_newton import _sensitivities

from . import problems
from .fields import wavy
from .laws import first_cases, first_of

LOSSES = {
    "psnr": distill.psnr_loss,
    "mse": distill.mse_loss,
    "snr": distill.snr_loss,
    "huber": distill.huber_loss(0.3),
}
KEY = jax.random.key(0)


def goal_of(to_params, field, x0, x1, loss=distill.mse_loss, weights=None):
    weights = jnp.ones(len(jax.tree.leaves(x0)[0])) if weights is None else weights
    batch = distill.Batch(x0, x1, (), weights)
    of_end = distill.Objective(distill.pairwise(loss))
    return distill.Goal(to_params, field, batch, of_end)


def stepper(goal):
    """The jitted update of one objective, for any batch of its shape."""
    update = distill.gauss_newton().trainer(1).update

    @jax.jit
    def step(rows, theta, state, key):
        return update(dataclasses.replace(goal, batch=rows), theta, state, key)

    return step


def begin(theta, damping=1e-3):
    return distill.gauss_newton(damping=damping).trainer(1).init(theta)


# --- the algebra of a step -----------------------------------------------------------


class Linearized(NamedTuple):
    """A batch of pytrees with weights, its residuals, and their derivatives."""

    theta: Any
    goal: distill.Goal
    residuals: np.ndarray
    J: np.ndarray


@pytest.fixture(scope="module")
def linearized():
    rng = np.random.default_rng(0)
    family = families.bns(solvers.midpoint(2))
    theta = jax.tree.map(lambda v: v + 0.1 * rng.normal(size=v.shape), family.theta)
    x0, x1 = (
        {"few": jnp.asarray(x[:, :1]), "many": jnp.asarray(x[:, 1:].reshape(4, 2, 1))}
        for x in rng.normal(size=(2, 4, 3))
    )

    def field(t, x):
        return jax.tree.map(lambda leaf: wavy(t, leaf), x)

    point, unravel = ravel_pytree(theta)

    def residuals(point):
        x = ns.sample(family.to_params(unravel(point)), field, x0)
        apart = jax.tree.map(lambda x, y: (x - y).reshape(4, -1), x, x1)
        return (jnp.concatenate([apart["few"], apart["many"]], axis=1),) * 2

    J, r = jax.jit(jax.jacfwd(residuals, has_aux=True))(point)
    weights = jnp.asarray([1.0, 3.0, 0.5, 2.0])
    goal = goal_of(family.to_params, field, x0, x1, weights=weights)
    return Linearized(theta, goal, np.asarray(r), np.asarray(J))


@pytest.mark.parametrize("loss", first_of(LOSSES, "psnr"))
def test_gradients_and_curvatures_are_those_of_the_jacobian(
    linearized, loss, monkeypatch
):
    # The mean of q q^T over all signs is its expectation.
    theta, goal, r, J = linearized
    signs = jnp.array([*itertools.product((-1.0, 1.0), repeat=3)])
    monkeypatch.setattr(jax.random, "rademacher", lambda key, shape, dtype: signs)
    of_end = distill.Objective(distill.pairwise(LOSSES[loss]))
    goal = dataclasses.replace(goal, objective=of_end)
    drawn = jax.jit(lambda: _sensitivities(goal, theta, KEY, len(signs)))()

    slope = {
        "mse": 2 * r / 3,
        "huber": np.clip(r, -0.3, 0.3) / 3,
    }.get(loss, 2 * r / np.sum(r**2, axis=1, keepdims=True))
    gradient = np.einsum("sd,sdp->sp", slope, J)
    np.testing.assert_allclose(drawn.gradient, gradient, atol=1e-12)
    c = np.sum(slope * r, axis=1) / np.sum(r**2, axis=1)
    curvature = np.einsum("s,sdp,sdq->spq", c, J, J)
    sketched = np.einsum("skp,skq->spq", drawn.sketches, drawn.sketches) / len(signs)
    np.testing.assert_allclose(sketched, curvature, atol=1e-12)


def test_the_mean_of_the_gradients_is_the_gradient_of_the_objective(linearized):
    theta, goal, _, _ = linearized
    drawn = jax.jit(lambda: _sensitivities(goal, theta, KEY, 1))()
    value, gradient = jax.jit(jax.value_and_grad(goal))(theta)
    np.testing.assert_allclose(goal.mean(drawn.loss), value, rtol=1e-12)
    expected, _ = ravel_pytree(gradient)
    np.testing.assert_allclose(goal.mean(drawn.gradient), expected, atol=1e-12)


@pytest.fixture(scope="module")
def tied():
    """Samples of one number, x_2 = p x_0 + q c, whose last row cannot move alone.

    Random signs then give the curvature itself, and only the damped step is at work.
    """

    def to_params(theta):
        # Row 0 leads nowhere, because the field is constant.
        p, q = theta
        return NSParams(jnp.zeros(2), jnp.stack([p, p]), jnp.diag(jnp.stack([q, q])))

    goal = goal_of(to_params, lambda t, x, c: c, jnp.ones((30, 1)), jnp.ones((30, 1)))
    return stepper(goal)


def tied_rows(constant=0.7):
    x0, x1 = np.random.default_rng(0).normal(size=(2, 30, 1))
    return distill.Batch(x0, x1, (np.full((30, 1), constant),), np.ones(30))


@pytest.mark.parametrize("constant", [0.7, 1e-6])
def test_a_step_on_a_linear_problem_is_least_squares(tied, constant):
    # Whatever the scale of its numbers; and the zero that the mean of curvatures
    # starts from does not count.
    rows, theta = tied_rows(constant), jnp.zeros(2)
    moved = tied(rows, theta, begin(theta, 1e-11), KEY).theta
    A = np.concatenate([rows.x0, *rows.args], axis=1)
    solution = np.linalg.lstsq(A, rows.x1[:, 0])[0]
    np.testing.assert_allclose(moved, solution, rtol=1e-9)


def test_the_curvature_is_the_running_mean(tied):
    theta = jnp.zeros(2)
    state, curvatures = begin(theta), []
    for constant in (0.7, 2.0, 0.1):
        rows = tied_rows(constant)
        J = np.concatenate([rows.x0, *rows.args], axis=1)
        curvatures.append(2 * J.T @ J / len(J))
        state = tied(rows, theta, state, KEY).opt_state
    # A memory of a half: the last one counts 1/2, those before 1/4 and 1/8.
    np.testing.assert_allclose(state.weight, 7 / 8)
    mean = np.einsum("spq,s->pq", curvatures, [1 / 8, 1 / 4, 1 / 2])
    np.testing.assert_allclose(np.sum(state.curvature, axis=0), mean, rtol=1e-10)


@given(st.floats(1e-30, 1e30), st.booleans())
def test_two_numbers_of_single_precision_hold_one_of_double(value, negative):
    x = np.float64(-value if negative else value)
    halves = np.asarray(in_two(jnp.asarray(x))).astype(np.float32)
    np.testing.assert_allclose(halves.astype(np.float64).sum(), x, rtol=2.0**-47)


@pytest.mark.exhaustive
def test_one_evaluation_of_a_constant_field_is_solved_in_one_step(rng):
    # x_1 = a x_0 + b c: nothing but a last row.
    x0, x1 = rng.normal(size=(2, 20, 3))
    family = families.bns(solvers.euler(1))
    goal = goal_of(family.to_params, lambda t, x: jnp.full_like(x, 0.7), x0, x1)
    theta = stepper(goal)(goal.batch, family.theta, begin(family.theta), KEY).theta
    A = np.stack([x0.ravel(), np.full(x0.size, 0.7)], axis=1)
    solution = np.linalg.lstsq(A, x1.ravel())[0]
    np.testing.assert_allclose([theta.a[0], theta.b[0]], solution, rtol=1e-10)


# --- safety --------------------------------------------------------------------------


class Unreachable(NamedTuple):
    theta: Any
    goal: distill.Goal
    update: Any


@functools.cache
def unreachable(name):
    """A batch with targets that no member of a family meets."""
    family = FAMILIES[name]
    x0 = problems.noise(16, seed=3)
    x1 = np.tanh(3 * x0) + 0.3 * problems.noise(16, seed=4)
    goal = goal_of(family.to_params, wavy, x0, x1, distill.psnr_loss)
    return Unreachable(family.theta, goal, stepper(goal))


FAMILIES = {
    "bns": families.bns(solvers.midpoint(2)),
    # Nonlinear in its theta, its last row too.
    "bst": families.bst("midpoint", 2),
}


@pytest.mark.parametrize(
    ("name", "furthest"), first_cases([("bns", 2.0), ("bst", 0.5)], ("bst", 0.5))
)
def test_no_step_raises_the_loss_of_its_batch(name, furthest):
    start, goal, update = unreachable(name)
    loss = jax.jit(lambda theta: goal(theta))

    @settings(deadline=None, max_examples=20)
    @given(seed=st.integers(0, 2**31 - 1), scale=st.floats(0.0, furthest))
    def law(seed, scale):
        rng = np.random.default_rng(seed)
        theta = jax.tree.map(lambda v: v + scale * rng.normal(size=v.shape), start)
        state = begin(theta)
        for key in jax.random.split(jax.random.key(seed), 3):
            before = loss(theta)
            step = update(goal.batch, theta, state, key)
            np.testing.assert_allclose(step.loss, before, rtol=1e-9)
            theta, state = step.theta, step.opt_state
            assert loss(theta) <= before + 1e-9
            assert not step.rejected

    law()


def test_damping_falls_after_a_success_and_grows_after_a_failure(tied):
    rows, theta = tied_rows(), jnp.zeros(2)
    success = tied(rows, theta, begin(theta, 1e-3), KEY)
    np.testing.assert_allclose(success.opt_state.damping, 1e-4)

    # x_2 = x_0 is hit exactly: nothing is better.
    exact, rows = jnp.array([1.0, 0.0]), dataclasses.replace(rows, x1=rows.x0)
    failure = tied(rows, exact, begin(exact, 1e-3), KEY)
    np.testing.assert_allclose(failure.opt_state.damping, 1e-2)
    np.testing.assert_array_equal(failure.theta, exact)
    assert not failure.rejected


def test_damping_stays_in_its_bounds(tied):
    rows, theta = tied_rows(), jnp.zeros(2)
    least = tied(rows, theta, begin(theta, 1e-20), KEY).opt_state.damping
    np.testing.assert_allclose(least, 1e-12)
    exact, rows = jnp.array([1.0, 0.0]), dataclasses.replace(rows, x1=rows.x0)
    state = begin(exact, 10.0)
    for _ in range(5):
        state = tied(rows, exact, state, KEY).opt_state
    np.testing.assert_allclose(state.damping, 1e4)


def test_a_step_that_is_not_finite_is_not_taken():
    start, goal, update = unreachable("bst")
    rows = dataclasses.replace(goal.batch, x0=np.full_like(goal.batch.x0, np.nan))
    state = begin(start)
    step = update(rows, start, state, KEY)
    assert step.rejected
    for got, expected in zip(step.theta, start, strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(step.opt_state.curvature, state.curvature)
    np.testing.assert_array_equal(step.opt_state.weight, state.weight)


@pytest.mark.exhaustive
def test_numbers_without_an_effect_stay_where_they_are():
    # Two conditions leave rows of up to two numbers no freedom: the times alone move.
    family = families.constrained(families.bns(solvers.midpoint(2)), 2)
    theta = jax.tree.map(lambda leaf: leaf.astype(np.float32), family.theta)
    x0 = problems.noise(16, dtype=np.float32)
    goal = goal_of(family.to_params, wavy, x0, np.tanh(x0), distill.psnr_loss)
    moved = stepper(goal)(goal.batch, theta, begin(theta), KEY).theta
    assert moved.times != theta.times
    np.testing.assert_array_equal(moved.a, theta.a)
    np.testing.assert_array_equal(moved.b, theta.b)


def test_steps_that_leave_the_domain_of_the_field_get_shorter():
    # x_2 = tanh(theta - 4): so flat at 0 that a Newton step lands far outside.
    def to_params(theta):
        b = jnp.array([[0.0, 0.0], [0.0, 1.0]]).at[0, 0].set(theta[0])
        return NSParams(jnp.array([0.0, 0.5]), jnp.zeros(2), b)

    def field(t, x):
        inside = jnp.where(jnp.abs(x) < 20, jnp.tanh(x - 4), jnp.nan)
        return jnp.where(t < 0.25, 1.0, inside)

    # The last row can move alone; there is nothing but the one good size for it.
    x0 = jnp.ones((10, 1))
    goal = goal_of(to_params, field, x0, jnp.zeros_like(x0))
    update, theta = stepper(goal), jnp.zeros(1)
    state, rejected = begin(theta), []
    for _ in range(20):
        theta, state, _, refused = update(goal.batch, theta, state, KEY)
        rejected.append(bool(refused))
    assert rejected[0]
    assert not rejected[-1]
    np.testing.assert_allclose(theta, 4.0, atol=1e-3)


# --- single precision ----------------------------------------------------------------


@pytest.mark.parametrize("double", first_of([False, True], False))
def test_float64_is_where_it_was_asked_for_alone(double):
    with jax.enable_x64(False):
        x0 = jnp.ones((4, 3))
        family = families.bns(solvers.midpoint(2))
        goal = goal_of(family.to_params, wavy, x0, x0, distill.psnr_loss)
        trainer = distill.gauss_newton(double=double).trainer(1)
        state = trainer.init(family.theta)
        program = jax.make_jaxpr(lambda *args: trainer.update(goal, *args))(
            family.theta, state, jax.random.key(0)
        )
    assert ("f64" in str(program)) == double
