"""Laws of alpha_t and sigma_t (eq. 4)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bns_jax
from bns_jax import schedulers, solvers, velocity
from tests.laws import ALL_SCHEDULERS as ONE_OF_EACH
from tests.laws import assert_close, first_cases

ALL_SCHEDULERS = ONE_OF_EACH | {
    "constant_beta": schedulers.vp(10.0, 10.0),
    "ve_rho": schedulers.ve(80.0, rho=7.0),
}

INTERIOR = np.linspace(0.003, 0.997, 61)
FUNCTIONS = ("alpha", "sigma", "d_alpha", "d_sigma", "snr", "log_snr")

each_scheduler = pytest.mark.parametrize(
    "scheduler", list(ALL_SCHEDULERS.values()), ids=list(ALL_SCHEDULERS)
)


@each_scheduler
def test_ends_at_clean_data(scheduler):
    assert scheduler.alpha(1.0) == 1.0
    assert scheduler.sigma(1.0) == 0.0
    assert scheduler.snr(1.0) == np.inf
    assert scheduler.log_snr(1.0) == np.inf


@each_scheduler
def test_starts_at_noise(scheduler):
    assert scheduler.sigma(0.0) > 0.99
    assert scheduler.snr(0.0) < 0.05


@each_scheduler
def test_snr_strictly_increases(scheduler):
    t = np.linspace(0.0, 1.0, 2001)
    assert np.all(np.diff(scheduler.snr(t)[:-1]) > 0)
    assert np.all(np.diff(scheduler.log_snr(t)[1:-1]) > 0)


@each_scheduler
def test_snr_is_the_ratio_and_log_snr_its_logarithm(scheduler):
    snr = scheduler.alpha(INTERIOR) / scheduler.sigma(INTERIOR)
    np.testing.assert_allclose(scheduler.snr(INTERIOR), snr, rtol=1e-12)
    np.testing.assert_allclose(scheduler.log_snr(INTERIOR), np.log(snr), atol=1e-12)


@each_scheduler
def test_inverses_invert(scheduler):
    assert_close(scheduler.snr_inverse(scheduler.snr(INTERIOR)), INTERIOR, 1e-10)
    log_snr = scheduler.log_snr(INTERIOR)
    assert_close(scheduler.log_snr_inverse(log_snr), INTERIOR, 1e-10)
    again = scheduler.log_snr(scheduler.log_snr_inverse(log_snr))
    assert_close(again, log_snr, 1e-10)


@each_scheduler
def test_inverses_reach_the_ends(scheduler):
    assert_close(scheduler.log_snr_inverse(np.inf), 1.0, 1e-15)
    assert_close(scheduler.snr_inverse(np.inf), 1.0, 1e-15)
    assert_close(scheduler.snr_inverse(scheduler.snr(0.0)), 0.0, 1e-12)


@each_scheduler
def test_inverses_stay_on_the_path(scheduler):
    """Noisier than the start is the start, in either namespace and its tangents."""
    noisy = np.array([0.0, 1e-12, 1e-9])
    for snr in (noisy, jnp.asarray(noisy)):
        times = np.asarray(scheduler.snr_inverse(snr))
        assert np.all((times >= 0.0) & (times < 1e-6))
    assert_close(scheduler.snr_inverse(0), 0.0, 1e-15)
    assert_close(scheduler.log_snr_inverse(-np.inf), 0.0, 1e-15)


@each_scheduler
@pytest.mark.parametrize(
    "ends",
    [
        [0, 1],
        [False, True],
        np.array([0, 1], np.int8),
        jnp.array([False, True]),
        jnp.array([0, 1], jnp.int16),
    ],
    ids=lambda ends: f"{type(ends).__name__}-{np.asarray(ends).dtype}",
)
def test_whole_times_are_times(scheduler, ends):
    for name in FUNCTIONS:
        function = getattr(scheduler, name)
        with np.errstate(all="ignore"):
            expected = function(np.array([0.0, 1.0]))
            got = function(ends) if isinstance(ends, jax.Array) else None
            one_by_one = [float(function(t)) for t in ends]
        if got is not None:
            assert jnp.issubdtype(got.dtype, jnp.floating)
            np.testing.assert_allclose(got, expected, rtol=1e-12)
        np.testing.assert_allclose(one_by_one, expected, rtol=1e-12)


@each_scheduler
def test_derivatives_are_those_of_autodiff(scheduler):
    @jax.jit
    def autodiff(t):
        both = scheduler.alpha, scheduler.sigma
        return [jax.jvp(f, (t,), (jnp.ones_like(t),))[1] for f in both]

    closed = scheduler.d_alpha(INTERIOR), scheduler.d_sigma(INTERIOR)
    np.testing.assert_allclose(closed, autodiff(INTERIOR), rtol=1e-9, atol=1e-12)


@each_scheduler
@pytest.mark.parametrize("name", [*FUNCTIONS, "snr_inverse", "log_snr_inverse"])
def test_numpy_and_jax_agree(scheduler, name):
    function = getattr(scheduler, name)
    in_numpy, in_jax = function(INTERIOR), function(jnp.asarray(INTERIOR))
    assert isinstance(in_jax, jax.Array)
    np.testing.assert_allclose(in_jax, in_numpy, rtol=1e-11, atol=1e-13)


@each_scheduler
@pytest.mark.parametrize("name", FUNCTIONS)
def test_numbers_give_numpy_float64_whatever_the_configuration(scheduler, name):
    with jax.enable_x64(False):
        for t in (0.5, np.float32(0.5), np.linspace(0.1, 0.9, 3)):
            value = getattr(scheduler, name)(t)
            assert isinstance(value, np.ndarray | np.float64)
            assert value.dtype == np.float64
            assert np.shape(value) == np.shape(t)


@each_scheduler
def test_jax_dtypes_are_kept(scheduler):
    t = jax.ShapeDtypeStruct((2,), jnp.float32)
    for name in FUNCTIONS:
        assert jax.eval_shape(getattr(scheduler, name), t).dtype == jnp.float32


@pytest.mark.parametrize(
    "make",
    [
        schedulers.cond_ot,
        schedulers.cosine,
        schedulers.vp,
        schedulers.ve,
        lambda: schedulers.from_alphas_cumprod([0.9, 0.5, 0.1]),
        lambda: schedulers.shifted(3.0),
        lambda: schedulers.shifted(2.0, schedulers.vp()),
    ],
)
def test_equal_by_value_and_hashable(make):
    assert make() == make()
    assert hash(make()) == hash(make())


def test_different_numbers_make_different_schedulers():
    made = [*ALL_SCHEDULERS.values(), schedulers.vp(0.2), schedulers.ve(10.0)]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(
    "name", ["vp", "constant_beta", "alphas_cumprod", "zero_terminal"]
)
def test_variance_is_preserved(name):
    path, t = ALL_SCHEDULERS[name], np.linspace(0.0, 1.0, 33)
    assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, np.ones(33), 1e-14)


def test_vp_integrates_its_beta():
    """log alpha_t is -1/2 the integral over noise of beta, linear from b to B."""
    b, B, t = 0.3, 12.0, 0.37
    s = np.linspace(0.0, 1.0 - t, 100_001)
    integral = np.trapezoid(b + s * (B - b), s)
    assert_close(schedulers.vp(b, B).alpha(t), np.exp(-0.5 * integral), 1e-9)


def test_a_constant_beta_decays_exponentially():
    """beta = 1 over ten units of time, tau = 10 s: alpha = exp(-tau / 2)."""
    s = np.linspace(0.0, 1.0, 11)
    assert_close(schedulers.vp(10.0, 10.0).alpha(1.0 - s), np.exp(-10 * s / 2), 1e-14)


def test_vp_starts_above_zero():
    assert_close(schedulers.vp().alpha(0.0), np.exp(-5.025), 1e-15)


def test_ve_noise_is_linear_in_time():
    t = np.linspace(0.0, 1.0, 5)
    assert_close(schedulers.ve(10.0).sigma(t), [10.0, 7.5, 5.0, 2.5, 0.0], 1e-15)


def karras_levels(count):
    """Karras et al. (2022), eq. 5, from 80 to 0.002."""
    i, rho = np.arange(count), 7
    ends = 80.0 ** (1 / rho), 0.002 ** (1 / rho)
    return (ends[0] + i / (count - 1) * (ends[1] - ends[0])) ** rho


def test_a_network_is_told_the_noise_levels_of_its_solver_in_float32():
    levels, told = karras_levels(18), []

    def denoiser(sigma, x):
        jax.debug.callback(lambda sigma: told.append(float(sigma)), sigma)
        return jnp.zeros_like(x)

    path = schedulers.ve(80.0, rho=7.0)
    params = solvers.from_sigmas("ddim", [*levels, 0.0], path)
    x0 = jnp.full((1, 2), 80.0, jnp.float32)
    jax.block_until_ready(
        bns_jax.sample(params, velocity.from_denoiser(denoiser, path), x0)
    )
    jax.effects_barrier()
    np.testing.assert_allclose(told, levels, rtol=2e-6)


def test_even_times_of_ve_are_the_levels_of_karras():
    """On the path that ends where they do, but for their last, which is not 0."""
    t = np.linspace(0.0, 1.0, 9)
    expected = 80.0 * np.linspace(1.0, 0.0, 9) ** 7
    assert_close(schedulers.ve(80.0, rho=7.0).sigma(t), expected, 1e-13)


def test_discrete_schedule_meets_its_table_at_the_nodes():
    alphas_cumprod = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
    path = schedulers.from_alphas_cumprod(alphas_cumprod)
    k = np.arange(1000)
    t = 1.0 - (k + 1) / 1000
    np.testing.assert_allclose(path.alpha(t) ** 2, alphas_cumprod, rtol=1e-10)
    np.testing.assert_allclose(path.sigma(t) ** 2, 1 - alphas_cumprod, rtol=1e-10)
    assert_close(path.timestep(t), k, 1e-10)


def test_discrete_schedule_tends_to_the_continuous_one():
    t, vp = np.linspace(0.0, 1.0, 4001), schedulers.vp()
    path = schedulers.from_alphas_cumprod(vp.alpha(t[:-1])[::-1] ** 2)
    assert_close(path.alpha(INTERIOR), vp.alpha(INTERIOR), 1e-6)
    assert_close(path.sigma(INTERIOR), vp.sigma(INTERIOR), 1e-5)


@pytest.mark.parametrize(
    ("steps", "dtype"),
    first_cases(
        [(steps, dtype) for steps in (996, 1000) for dtype in (np.float32, np.float64)],
        (996, np.float32),
        (1000, np.float64),
    ),
)
def test_timesteps_of_whole_steps_are_whole(steps, dtype):
    """A network's table is read by timestep(t).astype(int)."""
    path = schedulers.from_alphas_cumprod(np.linspace(0.99, 0.01, steps))
    k = np.arange(steps)
    t = (1.0 - (k + 1) / steps).astype(dtype)
    timestep = path.timestep if dtype is np.float64 else jax.jit(path.timestep)
    np.testing.assert_array_equal(np.asarray(timestep(t)).astype(int), k)
    gradient = jax.jit(jax.grad(lambda t: jnp.sum(path.timestep(t))))
    np.testing.assert_allclose(gradient(t[1:-1]), -float(steps), rtol=1e-6)
    between = timestep(t - dtype(0.5 / steps))[:-1]
    np.testing.assert_allclose(between, k[:-1] + 0.5, rtol=1e-5, atol=1e-3)


SCALED_LINEAR = np.cumprod(1.0 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def ways_to_round(t):
    """Times as solvers, tables and networks compute and hold them."""
    single = t.astype(np.float32)
    yield from (t, single, single.astype(np.float64))
    yield from (np.nextafter(single, np.float32(end)) for end in (0.0, 1.0))
    yield from (jnp.asarray(single), jnp.asarray(t))


def test_the_slope_at_a_step_is_that_behind_it_however_its_time_is_rounded():
    path = schedulers.from_alphas_cumprod(SCALED_LINEAR)
    behind = np.diff([*0.5 * np.log(SCALED_LINEAR[::-1]), 0.0]) * 1000
    for t in ways_to_round(np.arange(1000) / 1000):
        np.testing.assert_allclose(path.d_log_alpha(t), behind, rtol=1e-6)


def test_the_slope_of_a_zero_terminal_schedule_is_that_behind_its_first_step():
    path = schedulers.from_alphas_cumprod(rescaled(SCALED_LINEAR))
    slopes = [path.d_alpha(t[1]) for t in ways_to_round(np.arange(1000) / 1000)]
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-5)


@pytest.mark.parametrize(
    "timesteps", [[999, 666, 333], [951, 751, 551, 351, 151, 1], [999, 850, 736, 343]]
)
def test_single_precision_meets_ddim_on_published_steps(timesteps):
    """x_s = alpha_s (x - sigma e) / alpha + sigma_s e, in float64 to clean data."""
    path = schedulers.from_alphas_cumprod(SCALED_LINEAR)
    vf = velocity.from_epsilon(lambda t, x: 0.9 * jnp.tanh(x), path)
    x0 = np.linspace(-2.0, 2.0, 9, dtype=np.float32)[:, None]
    params = solvers.from_timesteps("ddim", timesteps, path)
    got = bns_jax.sample(jax.tree.map(np.float32, params), vf, x0)
    x, kept = x0.astype(np.float64), [*SCALED_LINEAR[timesteps], 1.0]
    for now, after in itertools.pairwise(kept):
        e = 0.9 * np.tanh(x)
        data = (x - np.sqrt(1 - now) * e) / np.sqrt(now)
        x = np.sqrt(after) * data + np.sqrt(1 - after) * e
    assert_close(got, x, 2e-5)


def rescaled(alphas_cumprod):
    """Algorithm 1 of Lin et al., 2024: to zero terminal SNR."""
    root = np.sqrt(alphas_cumprod)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


@pytest.mark.parametrize("last", [0.0, 2.0**-24])
def test_zero_terminal_snr(last):
    table = rescaled(SCALED_LINEAR)
    table[-1] = last
    path = schedulers.from_alphas_cumprod(table)
    t = 1.0 - (np.arange(1000) + 1) / 1000
    for times in (t, jnp.asarray(t)):
        np.testing.assert_allclose(path.alpha(times) ** 2, table, rtol=1e-10)
        np.testing.assert_allclose(path.sigma(times) ** 2, 1 - table, rtol=1e-10)
    inside = np.linspace(0.0, 0.001, 7)
    for derivative in (path.d_alpha(inside), path.d_sigma(inside)):
        assert np.all(np.isfinite(derivative))
    slope = jax.jit(jax.vmap(jax.grad(path.alpha)))(inside)
    assert np.all(np.isfinite(slope))
    times = path.snr_inverse(path.snr(inside))
    np.testing.assert_allclose(times, inside, atol=1e-12)
    assert path.timestep(0.0) == 999


def test_timestep_stays_in_the_table():
    path = schedulers.from_alphas_cumprod([0.9, 0.5, 0.1])
    np.testing.assert_array_equal(path.timestep(np.array([0.0, 1.0])), [2.0, 0.0])


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_shift_divides_the_snr_of_cond_ot(shift):
    got = schedulers.shifted(shift).snr(INTERIOR)
    np.testing.assert_allclose(got, INTERIOR / (1 - INTERIOR) / shift, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedulers.vp(2.0, 1.0), "beta_min=2.0, beta_max=1.0"),
        (lambda: schedulers.ve(80.0, rho=0.5), "rho must be at least 1, got 0.5"),
        (lambda: schedulers.from_alphas_cumprod([]), "strictly decreasing"),
        (lambda: schedulers.from_alphas_cumprod([0.1, 0.5]), "strictly decreasing"),
        (lambda: schedulers.from_alphas_cumprod([0.5, 0.5]), "strictly decreasing"),
        (lambda: schedulers.from_alphas_cumprod([1.0, 0.5]), "from 1.0 to 0.5"),
        (lambda: schedulers.from_alphas_cumprod([0.5, -0.1]), "from 0.5 to -0.1"),
        (lambda: schedulers.from_alphas_cumprod([0.0]), "from 0.0 to 0.0"),
        (lambda: schedulers.from_alphas_cumprod([[0.5, 0.1]]), r"shape \(1, 2\)"),
        (lambda: schedulers.from_alphas_cumprod([0.5, np.nan]), "strictly decreasing"),
    ],
)
def test_bad_tables_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
