"""Laws of lanes: every sample is solved once, alone, and little is waited for."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from bns_jax import ground_truth, parallel
from bns_jax.pairs import Pairs, take
from bns_jax.problem import Problem
from bns_jax.reference import Reference
from bns_jax.shards import Shards

TIMES = np.array([0.0, 0.37, 1.0])


def swinging(t, x, rate):
    """x' = rate cos(rate t) x: the larger the rate, the more steps."""
    return (rate * jnp.cos(rate * t))[:, None] * x


def exact(x0, rate, t):
    return x0 * np.exp(np.sin(rate * t))[:, None]


def samples(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 2)), rng.uniform(0.1, 20.0, count)


def solve(x0, rate, chunk, mesh=None, tolerance=1e-6):
    return ground_truth.pairs(
        Problem(swinging, mesh=mesh),
        x0,
        rate,
        rtol=tolerance,
        atol=tolerance,
        save_at=TIMES,
        chunk=chunk,
    )


@pytest.mark.parametrize(("count", "chunk"), [(23, 4), (8, 4), (3, 4), (5, 1)])
def test_each_sample_goes_its_own_way_to_its_own_end(count, chunk):
    x0, rate = samples(count)
    solved = solve(x0, rate, chunk)
    np.testing.assert_array_equal(solved.x0, x0)
    np.testing.assert_array_equal(solved.args[0], rate)
    np.testing.assert_allclose(solved.x1, exact(x0, rate, 1.0), atol=2e-5)
    for t, x in zip(TIMES, solved.path, strict=True):
        np.testing.assert_allclose(x, exact(x0, rate, t), atol=1e-4)
    if count > chunk:
        assert len(set(solved.nfe)) > 2


def test_it_takes_about_the_evaluations_of_another_dopri5():
    x0, rate = samples(6)
    theirs = [
        solve_ivp(
            lambda t, x, r=r: r * np.cos(r * t) * x,
            (0.0, 1.0),
            x,
            rtol=1e-6,
            atol=1e-6,
        ).nfev
        for x, r in zip(x0, rate, strict=True)
    ]
    ours = solve(x0, rate, 6).nfe
    assert np.sum(ours) < 1.1 * np.sum(theirs)


def test_devices_share_the_lanes_and_change_nothing():
    x0, rate = samples(23)
    alone = solve(x0, rate, 8)
    shared = solve(x0, rate, 8, parallel.data_mesh())
    np.testing.assert_array_equal(shared.nfe, alone.nfe)
    np.testing.assert_allclose(shared.path, alone.path, atol=1e-12)


def test_no_lane_waits_for_the_slowest(monkeypatch):
    x0, rate = samples(200)
    calls = []
    run = Reference._run

    def counted(self, program, *args):
        calls.append(program.__name__)
        return run(self, program, *args)

    monkeypatch.setattr(Reference, "_run", counted)
    solved = solve(x0, rate, 8)
    done = 8 * (6 * calls.count("advance") + calls.count("begin"))
    needed = np.sum(solved.nfe)
    in_chunks = sum(8 * np.max(solved.nfe[i : i + 8]) for i in range(0, 200, 8))
    assert needed <= done < 1.06 * needed < 0.8 * in_chunks


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tolerances_below_the_precision_are_refused(dtype):
    x0, rate = samples(1)
    least = np.finfo(dtype).eps
    with pytest.raises(ValueError, match=f"cannot reach .* is {least:.2g}"):
        solve(x0.astype(dtype), rate, 1, tolerance=0.9 * least)


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 5), st.randoms(use_true_random=False))
def test_shards_come_whole_and_in_order_in_whatever_order_samples_come(
    count, size, random
):
    x0 = np.arange(count, dtype=float)[:, None]
    path = np.stack([x0, -x0])
    pairs = Pairs(x0, -x0, (), np.arange(count), np.array([0.0, 1.0]), path)
    order = random.sample(range(count), count)
    shards, came = Shards(count, size), {}
    while order:
        cut = random.randint(1, len(order))
        rows, order = np.array(order[:cut]), order[cut:]
        came |= dict(shards.add(rows, take(pairs, rows)))
    assert sorted(came) == list(range(len(shards)))
    for index, shard in came.items():
        rows = shards.rows(index)
        np.testing.assert_array_equal(shard.nfe, rows)
        np.testing.assert_array_equal(shard.x1[:, 0], -rows)
        np.testing.assert_array_equal(shard.path[1, :, 0], -rows)
