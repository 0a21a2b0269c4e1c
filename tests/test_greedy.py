"""Laws of the greedy start: each row by plain least squares, n calls and no more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import distill, grids, ns, parallel, solvers
from bns_jax.pairs import Pairs

from . import problems
from .fields import Linear, wavy
from .laws import assert_close, first_of, run

UNEVEN = (0.0, 0.25, 0.375, 0.75, 1.0)
each_nfe = pytest.mark.parametrize("nfe", first_of([1, 2, 4, 5], 1, 4))


def linear_pairs(count=30):
    """Multiples of their start at all times, which any row meets exactly."""
    x0, times = problems.noise(count), np.linspace(0.0, 1.0, 33)
    path = np.stack([Linear().flow(0.0, t, x0) for t in times])
    return Pairs(x0, path[-1], (), np.ones(count, int), times, path)


def spread(x):
    """One array as a pytree of two, in another order of entries than that of size."""
    return {"a": x[..., :1], "b": (x[..., 1:, None],)}


@pytest.fixture(scope="module")
def pairs():
    return problems.wavy_pairs(60, seed=1)


def test_a_path_that_every_row_can_meet_is_met():
    data = linear_pairs()
    params = distill.greedy(Linear().velocity, data, 4, [UNEVEN])
    ns.validate(params)
    path = run(params, Linear().velocity, data.x0)
    for time, x in zip(UNEVEN[1:], path, strict=True):
        assert_close(x, Linear().flow(0.0, time, data.x0), 1e-12)


@each_nfe
def test_the_solver_is_on_its_grid(pairs, nfe):
    params = distill.greedy(wavy, pairs, nfe, [grids.uniform()])
    ns.validate(params)
    np.testing.assert_allclose(params.times, np.arange(nfe) / nfe, atol=1e-15)


@pytest.mark.parametrize("row", [0, 1, 2])
def test_an_inner_row_is_least_squares_to_the_true_path(pairs, row):
    params = distill.greedy(wavy, pairs, 4, [grids.uniform()])
    iterates = [pairs.x0, *run(params, wavy, pairs.x0)]
    columns = [wavy(params.times[j], iterates[j]) for j in range(row + 1)]
    A = np.stack([c.ravel() for c in (pairs.x0, *columns)], axis=1)
    target = pairs.path[5 * (row + 1)]
    best, *_ = np.linalg.lstsq(A, target.ravel())
    got = np.append(params.a[row], params.b[row, : row + 1])
    np.testing.assert_allclose(A @ got, A @ best, atol=1e-10)


def test_the_last_row_is_least_squares_with_inverse_errors_for_weights(pairs):
    params = distill.greedy(wavy, pairs, 3, [grids.uniform()])
    iterates = [pairs.x0, *run(params, wavy, pairs.x0)]
    columns = [wavy(params.times[j], iterates[j]) for j in range(3)]
    A = np.stack([pairs.x0, *columns], axis=-1)
    errors, weights = [], np.ones(60)
    for _ in range(3):
        root = np.sqrt(weights)[:, None]
        row, *_ = np.linalg.lstsq(
            (root[..., None] * A).reshape(-1, 4), (root * pairs.x1).ravel()
        )
        error = np.mean((A @ row - pairs.x1) ** 2, axis=1)
        errors.append(np.mean(np.log(error)))
        weights = 1 / error
    got = np.append(params.a[-1], params.b[-1])
    np.testing.assert_allclose(A @ got, A @ row, atol=1e-8)
    # Each round lowers the mean of the logarithm, which is what the PSNR is of.
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.exhaustive
@pytest.mark.parametrize("chunk", first_of([7, 30, 1000], 30))
def test_the_field_is_called_once_for_each_time_and_chunk(pairs, chunk):
    sizes = []

    def counted(t, x):
        sizes.append(len(x))
        return wavy(t, x)

    with jax.disable_jit():
        params = distill.greedy(counted, pairs, 2, [grids.uniform()], chunk)
    # The first look at the field asks about fewer.
    sizes = [size for size in sizes if size not in (1, 8)]
    assert len(sizes) == 2 * -(-60 // chunk)
    assert set(sizes) == {min(chunk, 60)}
    whole = distill.greedy(wavy, pairs, 2, [grids.uniform()])
    for got, expected in zip(params, whole, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-9)


def test_several_devices_find_what_one_finds(pairs):
    alone = distill.greedy(wavy, pairs, 3, [grids.uniform()])
    shared = distill.greedy(
        wavy, pairs, 3, [grids.uniform()], chunk=17, mesh=parallel.data_mesh()
    )
    for got, expected in zip(shared, alone, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-9)


def test_pytrees_and_conditions_give_what_arrays_give(pairs):
    def field(t, x, scale):
        return jax.tree.map(
            lambda leaf: wavy(t, leaf) * scale.reshape(-1, *[1] * (leaf.ndim - 1)), x
        )

    x0, x1, path = map(spread, (pairs.x0, pairs.x1, pairs.path))
    trees = pairs._replace(x0=x0, x1=x1, path=path, args=(np.ones(60),))
    got = distill.greedy(field, trees, 3, [grids.uniform()], 16)
    expected = distill.greedy(wavy, pairs, 3, [grids.uniform()])
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("nfe", first_of([2, 4, 8], 4))
def test_greedy_beats_midpoint_on_pairs_it_has_not_seen(pairs, nfe):
    unseen = problems.wavy_pairs(40, seed=2)
    params = distill.greedy(wavy, pairs, nfe)
    reached, midpoint = (
        np.mean(distill.evaluate(solver, wavy, unseen))
        for solver in (params, solvers.midpoint(nfe))
    )
    assert reached > midpoint + 6


@pytest.mark.parametrize("good", [0, 1])
def test_of_several_grids_the_one_that_comes_closest_is_kept(pairs, good):
    bad, better = [0.0, 0.9, 0.95, 1.0], grids.uniform()
    candidates = [better, bad] if good == 0 else [bad, better]
    params = distill.greedy(wavy, pairs, 3, candidates)
    alone = distill.greedy(wavy, pairs, 3, [better])
    np.testing.assert_array_equal(params.times, alone.times)


def test_bad_input_is_named(pairs):
    with pytest.raises(ValueError, match="at least one grid to try, got none"):
        distill.greedy(wavy, pairs, 3, [])
    inner = pairs._replace(times=pairs.times[4:17], path=pairs.path[4:17])
    with pytest.raises(ValueError, match="must increase from 0 to 1"):
        distill.greedy(wavy, inner, 3)

    def blows_up(t, x):
        return jnp.where(t > 0.5, jnp.nan, wavy(t, x))

    with pytest.raises(ValueError, match=r"pair 0 is not finite at t = 0\.66"):
        distill.greedy(blows_up, pairs, 3, [grids.uniform()])
    for grid in ([0.0, 1.0], [0.0, 0.6, 0.5, 1.0], [0.0, 0.5, 0.7, 1.5]):
        with pytest.raises(ValueError, match=r"grid|times"):
            distill.greedy(wavy, pairs, 3, [grids.uniform(), grid])


@pytest.mark.exhaustive
@pytest.mark.parametrize("points", first_of([0, 2, 3], 0))
def test_a_path_of_too_few_points_is_solved_for(points):
    vf, whole, _ = problems.wavy_problem()
    k = np.array([0, 10, -1])[:points] if points != 2 else np.array([0, -1])
    few = whole._replace(times=whole.times[k], path=whole.path[k])
    got, expected = distill.greedy(vf, few, 3), distill.greedy(vf, whole, 3)
    reached = [distill.evaluate(params, vf, whole).mean() for params in (got, expected)]
    np.testing.assert_allclose(*reached, atol=0.1)
