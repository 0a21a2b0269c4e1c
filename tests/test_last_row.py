"""Laws of the last row: plain least squares, and nothing else moves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import distill, families, ns, scale_time, schedulers, solvers
from bns_jax.distill.last_row import refit

from . import problems
from .fields import wavy
from .laws import first_cases, first_of

NFE, COUNT = 3, 20
PSNR, HUBER = (distill.psnr_loss, False), (distill.huber_loss(0.2), True)


@pytest.fixture(scope="module")
def batch():
    x0 = problems.noise(COUNT, seed=1)
    x1 = np.tanh(x0) + 0.1 * problems.noise(COUNT, seed=2)
    return distill.Batch(x0, x1, (), np.linspace(0.5, 2.0, COUNT))


def wavy_tree(t, x):
    return jax.tree.map(lambda leaf: wavy(t, leaf), x)


def refitter(family, rows, loss, double=True):
    """Of theta to what refit makes of it, the losses of that, and the one before."""

    @jax.jit
    def run(theta):
        of_end = distill.Objective(distill.pairwise(loss))
        goal = distill.Goal(family.to_params, wavy_tree, rows, of_end)
        moved, reached = refit(goal, theta, double)
        return moved, reached, goal(moved), goal(theta)

    return run


def run(family, rows, loss=distill.mse_loss):
    return refitter(family, rows, loss)(family.theta)


def columns_by_hand(params, x0):
    """x_0 and all u_j as columns, one sample after another."""
    x, U = x0, []
    for i in range(len(params.a)):
        U.append(wavy(params.times[i], x))
        x = params.a[i] * x0 + sum(b * u for b, u in zip(params.b[i], U, strict=False))
    return np.stack([x0, *U], axis=-1)


def least_squares(rows, params):
    """What NumPy makes of the last row."""
    root = np.sqrt(rows.weights)[:, None]
    A = root[..., None] * columns_by_hand(params, rows.x0)
    return np.linalg.lstsq(A.reshape(-1, A.shape[-1]), (root * rows.x1).ravel())


@pytest.mark.parametrize("tree", first_of([False, True], True), ids=["array", "pytree"])
def test_the_last_row_is_weighted_least_squares(batch, tree):
    start = solvers.euler(NFE)
    family, rows = families.bns(start), batch
    if tree:
        x0, x1 = ((x[:, :1], {"rest": x[:, 1:, None]}) for x in (batch.x0, batch.x1))
        rows = dataclasses.replace(batch, x0=x0, x1=x1)
    moved, reached, loss, before = run(family, rows)
    solution, error, *_ = least_squares(batch, start)
    np.testing.assert_allclose(moved.a[-1], solution[0], rtol=1e-8)
    np.testing.assert_allclose(moved.b[-NFE:], solution[1:], rtol=1e-8)
    np.testing.assert_allclose(reached, error[0] / 3 / np.sum(batch.weights), rtol=1e-9)
    np.testing.assert_allclose(loss, reached, rtol=1e-9)
    assert loss < before
    np.testing.assert_array_equal(moved.times, family.theta.times)
    np.testing.assert_array_equal(moved.a[:-1], family.theta.a[:-1])
    np.testing.assert_array_equal(moved.b[:-NFE], family.theta.b[:-NFE])


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("loss", "double"),
    first_cases([PSNR, HUBER], PSNR),
    ids=["psnr", "huber"],
)
def test_the_loss_that_is_reached_is_that_of_the_result(batch, loss, double):
    family = families.bns(solvers.euler(NFE))
    again = refitter(family, batch, loss, double)
    moved, reached, after, before = again(family.theta)
    np.testing.assert_allclose(reached, after, rtol=1e-9)
    assert after < before
    # Nor does it rise where there is next to nothing left to gain.
    for _ in range(5):
        before = after
        moved, _, after, _ = again(moved)
        assert after <= before + 1e-12


LOSSES = [distill.psnr_loss, distill.mse_loss, distill.snr_loss]


@pytest.mark.parametrize("loss", first_of(LOSSES, LOSSES[0]))
def test_what_is_known_of_a_loss_of_distance_changes_nothing(batch, loss):
    family = families.bns(solvers.euler(NFE))

    def own(x, target):
        return loss(x, target)

    known, reached, *_ = run(family, batch, loss)
    plain, expected, *_ = run(family, batch, own)
    np.testing.assert_allclose(reached, expected, rtol=1e-9)
    for got, want in zip(known, plain, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-7)
    of_end = distill.Objective(distill.pairwise(own))
    assert not of_end.is_of_distance
    assert dataclasses.replace(of_end, of_distance=True).is_of_distance


def test_a_step_takes_little_memory_of_large_samples_by_microbatches():
    count, size = 8, 2**14
    family = families.bns(solvers.euler(8))
    trainer = distill.gauss_newton().trainer(1)
    x = jax.ShapeDtypeStruct((count, size), jnp.float32)
    weights = jax.ShapeDtypeStruct((count,), jnp.float32)
    rows = distill.Batch(x, x, (), weights)
    of_end = distill.Objective(distill.pairwise(distill.psnr_loss))

    def step(theta, state, rows):
        goal = distill.Goal(family.to_params, wavy_tree, rows, of_end, microbatch=1)
        return trainer.update(goal, theta, state, jax.random.key(0))

    theta = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), family.theta)
    state = jax.eval_shape(trainer.init, theta)
    compiled = jax.jit(step).lower(theta, state, rows).compile()
    # In arrays of the size of the batch; n + 1 velocities of each would be 9 of them.
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    assert temporaries < 10 * 4 * count * size


@pytest.mark.exhaustive
def test_a_constraint_is_kept(batch):
    family = families.constrained(families.bns(solvers.euler(NFE)), 2)
    moved, reached, after, before = run(family, batch, distill.psnr_loss)
    np.testing.assert_allclose(reached, after, rtol=1e-9)
    assert after < before
    to_params = jax.jit(family.to_params)
    times, a, b = to_params(moved)
    old = to_params(family.theta)
    np.testing.assert_allclose(a, 1.0)
    np.testing.assert_allclose([sum(b[-1]), b[-1] @ times], [1.0, 0.5], atol=1e-12)
    np.testing.assert_array_equal(times, old.times)
    np.testing.assert_array_equal(b[:-1], old.b[:-1])


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("nfe", "sigma_0"), first_cases([(2, 5.0), (4, 0.5)], (2, 5.0))
)
def test_preconditioning_leaves_the_last_row_free(batch, nfe, sigma_0):
    # As far as least squares get from the same solver.
    path, start = schedulers.cond_ot(), solvers.midpoint(nfe)
    folded = families.preconditioned(families.bns(start), path, sigma_0)
    same = scale_time.fold(start, scale_time.precondition(path, sigma_0))
    _, (error,), *_ = least_squares(batch, same)
    expected = error / 3 / np.sum(batch.weights)
    _, reached, after, _ = run(folded, batch)
    np.testing.assert_allclose(reached, expected, rtol=1e-6)
    np.testing.assert_allclose(reached, after, rtol=1e-6)


@pytest.mark.exhaustive
def test_theta_is_kept_where_no_last_row_is_free(batch):
    # There are as many conditions as numbers in it.
    family = families.constrained(families.bns(solvers.euler(NFE)), NFE)
    moved, reached, _, before = run(family, batch)
    for got, start in zip(moved, family.theta, strict=True):
        np.testing.assert_array_equal(got, start)
    np.testing.assert_allclose(reached, before, rtol=1e-12)


def test_the_loss_is_that_of_the_result_where_the_row_is_not_linear_in_theta(batch):
    # The last rate, scale and slope of a scale-time solver act on its last row alone.
    family = families.bst("euler", NFE)
    moved, reached, after, before = run(family, batch)
    np.testing.assert_allclose(reached, after, rtol=1e-9)
    assert after < before
    for got, start in zip(moved[1:], family.theta[1:], strict=True):
        np.testing.assert_array_equal(got[:-1], start[:-1])
    np.testing.assert_array_equal(moved.steps, family.theta.steps)


def test_an_exact_match_stays_exact(batch):
    # No weight is divided by an error of 0.
    family = families.bns(solvers.euler(NFE))
    x1 = ns.sample(solvers.euler(NFE), wavy, batch.x0)
    moved, reached, *_ = run(
        family, dataclasses.replace(batch, x1=x1), distill.psnr_loss
    )
    assert np.isfinite(reached)
    for got, start in zip(moved, family.theta, strict=True):
        np.testing.assert_allclose(got, start, atol=1e-9)
    assert jnp.all(jnp.isfinite(moved.b))
