"""Laws of time grids."""

import numpy as np
import pytest

from bns_jax import grids, schedulers
from tests.laws import ALL_GRIDS, ALL_SCHEDULERS, assert_close

each_scheduler = pytest.mark.parametrize(
    "scheduler", list(ALL_SCHEDULERS.values()), ids=list(ALL_SCHEDULERS)
)


@each_scheduler
@pytest.mark.parametrize("name", ALL_GRIDS)
def test_every_grid_passes_its_own_check(scheduler, name):
    for steps in (2, 5, 20):
        times = grids.times(ALL_GRIDS[name](scheduler), steps)
        assert times.shape == (steps + 1,)
        assert times.dtype == np.float64
        ends_early = "sigma_min" in name or name in ("karras_repeat", "linspace")
        assert (times[-1] == 1.0) == (not ends_early)
        lengths = np.diff(times)
        last_repeats = name == "karras_repeat" or (name == "linspace")
        assert np.all(lengths[:-1] > 0) and (lengths[-1] == 0) == last_repeats


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


@each_scheduler
def test_levels_start_where_the_noise_is(scheduler):
    """At the scheduler's own maximum, or 80 where that is infinite."""
    with np.errstate(divide="ignore"):
        own = 1.0 / scheduler.snr(0.0)
    for make in (grids.karras, grids.exponential, grids.beta):
        times = make(scheduler)(5)
        expected = 0.0 if np.isfinite(own) else scheduler.snr_inverse(1 / 80)
        assert_close(times[0], expected, 1e-12)
        if np.isfinite(own):
            with pytest.raises(ValueError, match="sigma_max must lie in"):
                make(scheduler, sigma_max=1.01 * own)
            rounded = make(scheduler, sigma_max=(1 + 5e-5) * own)(5)[0]
            assert_close(rounded, 0.0, 1e-12)


def test_exponential_levels_fall_by_one_factor():
    path = schedulers.ve()
    levels = path.sigma(grids.exponential(path, 0.01, 10.0)(4)[:-1])
    np.testing.assert_allclose(levels, [10.0, 1.0, 0.1, 0.01], rtol=1e-9)


def test_beta_levels_of_a_flat_distribution_are_equal():
    path = schedulers.ve()
    grid = grids.beta(path, 1.0, 9.0, a=1.0, b=1.0, final="sigma_min")
    np.testing.assert_allclose(path.sigma(grid(4)), [9, 7, 5, 3, 1], rtol=1e-9)


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        (grids.timesteps("leading", 1000), [750, 500, 250, 0]),
        (grids.timesteps("leading", 1000, offset=1), [751, 501, 251, 1]),
        (grids.timesteps("leading", 1000, skip_last=True), [800, 600, 400, 200]),
        (grids.timesteps("linspace", 1000), [999, 666, 333, 0]),
        (grids.timesteps("linspace", 1000, skip_last=True), [999, 749, 500, 250]),
        (grids.timesteps("trailing", 1000), [999, 749, 499, 249]),
    ],
)
def test_training_steps_are_spaced_as_published(grid, expected):
    """Lin et al., 2024, table 2, and the roundings of its implementations."""
    assert_close(1000 * (1 - grid(4)) - 1, [*expected, -1], 1e-12)


def test_the_last_step_leads_to_data_or_to_step_0():
    assert_close(grids.timesteps("trailing", 10)(2)[-1], 1.0, 1e-15)
    assert_close(grids.timesteps("trailing", 10, final="sigma_min")(2)[-1], 0.9, 1e-15)


def test_shifted_times_have_shifted_noise():
    """sigma' = shift sigma / (1 + (shift - 1) sigma) (Esser et al., 2024, eq. 23)."""
    sigma = 1.0 - np.linspace(0.0, 1.0, 6)
    times = grids.shifted(3.0)(5)
    assert_close(1.0 - times, 3 * sigma / (1 + 2 * sigma), 1e-14)
    path = schedulers.shifted(3.0)
    assert_close(path.alpha(grids.uniform()(5)), times, 1e-14)
    again = grids.shifted(1 / 3, times)(5)
    assert_close(again, grids.uniform()(5), 1e-14)


def test_dynamic_shift_is_linear_in_mu():
    assert_close(np.log(grids.dynamic_shift(256)), 0.5, 1e-14)
    assert_close(np.log(grids.dynamic_shift(4096)), 1.15, 1e-14)
    assert_close(np.log(grids.dynamic_shift(np.int64(2176))), 0.825, 1e-14)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grids.timesteps("trail"), '"leading" or "linspace" or "trailing"'),
        (lambda: grids.timesteps("leading", final="data"), '"zero" or "sigma_min"'),
        (lambda: grids.timesteps("trailing", 10)(11), "11 trailing steps .* fit"),
        (lambda: grids.timesteps("linspace", 10)(11), "11 linspace steps .* fit"),
        (lambda: grids.timesteps("leading", 10, offset=6)(2), "offset 6 do not fit"),
        (lambda: grids.karras(schedulers.ve(), final="end"), '"zero", "sigma_min" or'),
        (lambda: grids.dynamic_shift(9, base_tokens=9, max_tokens=9), "9 and 9"),
        (lambda: grids.resampled([1.0]), "two or more finite, sorted times"),
        (lambda: grids.resampled([0.0, np.nan]), "two or more finite, sorted times"),
        (lambda: grids.uniform(0.5, 0.5), "start < end"),
        (lambda: grids.times(None, 2.5), "must be a whole number, got 2.5"),
        (lambda: grids.times(None, True), "must be a whole number, got True"),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_list_is_a_grid():
    times = [0.0, 0.25, 1.0]
    np.testing.assert_array_equal(grids.times(times, 2), times)
    np.testing.assert_array_equal(grids.times(grids.from_times(times), 2), times)


def test_resampled_times_keep_their_density():
    times = np.array([0.0, 0.1, 0.3, 0.6, 1.0])
    np.testing.assert_array_equal(grids.resampled(times)(4), times)
    assert_close(grids.resampled(times)(2), [0.0, 0.3, 1.0], 1e-15)
    assert_close(grids.resampled(times)(8)[1::2], (times[1:] + times[:-1]) / 2, 1e-15)


@pytest.mark.parametrize("grid", [0.5, [], [0.5]], ids=repr)
def test_a_grid_needs_two_times(grid):
    for read in (grids.ends, lambda grid: grids.times(grid, 1)):
        with pytest.raises(ValueError, match="a grid of 1 steps needs 2 times, got"):
            read(grid)


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


@pytest.mark.parametrize("bounds", [(2.0, 1.0), (1.0, 1.0)])
def test_karras_bounds_are_checked(bounds):
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        grids.karras(schedulers.cond_ot(), *bounds)
