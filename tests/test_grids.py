"""Laws of time grids."""

import numpy as np
import pytest

from bns_jax import grids, schedulers
from tests.laws import ALL_SCHEDULERS, assert_close

each_scheduler = pytest.mark.parametrize(
    "scheduler", list(ALL_SCHEDULERS.values()), ids=list(ALL_SCHEDULERS)
)


@each_scheduler
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_every_grid_passes_its_own_check(scheduler, steps):
    for grid in (grids.uniform(), grids.log_snr(scheduler), grids.karras(scheduler)):
        times = grids.times(grid, steps)
        assert times.shape == (steps + 1,)
        assert times.dtype == np.float64
        assert times[-1] == 1.0
        assert np.all(np.diff(times) > 0)


def test_uniform_steps_are_equal():
    assert_close(grids.uniform(0.1, 0.9)(4), [0.1, 0.3, 0.5, 0.7, 0.9], 1e-15)


@each_scheduler
def test_log_snr_steps_are_equal_between_the_margins(scheduler):
    margin, steps = 1e-2, 12
    inner = scheduler.log_snr(grids.log_snr(scheduler, margin)(steps)[1:-1])
    first, last = scheduler.log_snr(margin), scheduler.log_snr(1 - margin)
    np.testing.assert_allclose(np.diff(inner), (last - first) / steps, rtol=1e-8)


@each_scheduler
def test_log_snr_grid_runs_from_0_to_1(scheduler):
    times = grids.log_snr(scheduler)(7)
    assert (times[0], times[-1]) == (0.0, 1.0)


@each_scheduler
def test_karras_spaces_the_root_of_the_noise_to_signal_ratio(scheduler):
    rho, largest, smallest = 7.0, 50.0, 0.01
    times = grids.karras(scheduler, smallest, largest, rho)(9)
    ratios = scheduler.sigma(times) / scheduler.alpha(times)
    np.testing.assert_allclose(ratios[[0, -2]], [largest, smallest], rtol=1e-6)
    steps = np.diff(ratios[:-1] ** (1 / rho))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_karras_does_not_start_at_zero_on_cond_ot():
    assert_close(grids.karras(schedulers.cond_ot())(4)[0], 1 / 81, 1e-15)


def test_a_list_is_a_grid():
    times = [0.0, 0.25, 1.0]
    np.testing.assert_array_equal(grids.times(times, 2), times)
    np.testing.assert_array_equal(grids.times(grids.from_times(times), 2), times)


def test_resampled_times_keep_their_density():
    times = np.array([0.0, 0.1, 0.3, 0.6, 1.0])
    np.testing.assert_array_equal(grids.resampled(times)(4), times)
    assert_close(grids.resampled(times)(2), [0.0, 0.3, 1.0], 1e-15)
    assert_close(grids.resampled(times)(8)[1::2], (times[1:] + times[:-1]) / 2, 1e-15)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0, 1.0], "a grid of 2 steps needs 3 times, got shape"),
        ([[0.0, 0.5, 1.0]], "a grid of 2 steps needs 3 times, got shape"),
        ([0.0, np.nan, 1.0], "finite"),
        ([0.0, np.inf, 1.0], "finite"),
        ([0.0, 0.7, 0.5], "sorted"),
        ([-0.1, 0.5, 1.0], r"lie in \[0, 1\]"),
        ([0.0, 0.5, 1.1], r"lie in \[0, 1\]"),
        (lambda steps: np.zeros(steps), "3 finite times"),
    ],
)
def test_bad_grids_are_named(times, message):
    with pytest.raises(ValueError, match=message):
        grids.times(times, 2)


@pytest.mark.parametrize("margin", [0.0, 0.5, -1.0, float("nan")])
def test_log_snr_margin_is_checked(margin):
    with pytest.raises(ValueError, match="margin"):
        grids.log_snr(schedulers.cond_ot(), margin)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (2.0, 1.0), (1.0, 1.0)])
def test_karras_bounds_are_checked(bounds):
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        grids.karras(schedulers.cond_ot(), *bounds)
