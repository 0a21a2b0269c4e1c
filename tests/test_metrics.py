"""Laws of the ratios of signal to noise, and of how sure their means are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import distill, metrics


@pytest.mark.parametrize("offset", [2.0, 0.1, 1e-3])
def test_psnr_of_a_constant_offset_is_known(offset):
    x = jnp.zeros((3, 4, 5))
    expected = 20 * np.log10(2 / offset)
    np.testing.assert_allclose(metrics.psnr(x + offset, x), expected, rtol=1e-12)


def test_psnr_is_of_each_sample(rng):
    x, target = rng.uniform(-1, 1, (2, 5, 3, 2))
    mse = [np.mean((a - b) ** 2) for a, b in zip(x, target, strict=True)]
    got = metrics.psnr(x, target)
    assert got.shape == (5,)
    np.testing.assert_allclose(got, -10 * np.log10(np.divide(mse, 4)), rtol=1e-12)


def test_pytrees_are_pooled_by_their_number_of_entries(rng):
    x, target = rng.normal(size=(2, 4, 12))
    split = [
        {"few": jnp.asarray(y[:, :2]), "many": jnp.asarray(y[:, 2:].reshape(4, 5, 2))}
        for y in (x, target)
    ]
    np.testing.assert_allclose(
        metrics.mean_squared_error(*split), np.mean((x - target) ** 2, 1), rtol=1e-12
    )


def test_samples_that_are_one_number_have_a_psnr():
    got = metrics.mean_squared_error(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0]))
    np.testing.assert_array_equal(got, [1.0, 4.0])


def test_bfloat16_is_computed_in_float32():
    # 4096 squares of 1: a sum in bfloat16 would stop growing at 256.
    x = jnp.ones((2, 4096), jnp.bfloat16)
    mse = metrics.mean_squared_error(x, jnp.zeros_like(x))
    assert mse.dtype == jnp.float32
    np.testing.assert_array_equal(mse, 1.0)
    assert metrics.psnr(x, x).dtype == jnp.float32


def test_the_wider_of_two_dtypes_is_used():
    x, target = jnp.ones((1, 2), jnp.float32), np.full((1, 2), 1 + 1e-9)
    for pair in ((x, target), (target, x)):
        mse = metrics.mean_squared_error(*pair)
        np.testing.assert_allclose(mse, 1e-18, rtol=1e-6)


def test_equal_samples_have_an_infinite_psnr(rng):
    x = rng.normal(size=(2, 3))
    np.testing.assert_array_equal(metrics.psnr(x, x), np.inf)


def test_snr_is_the_ratio_of_powers_by_hand(rng):
    x, target = rng.normal(size=(2, 5, 3, 2))
    power, noise = np.sum(target**2, (1, 2)), np.sum((x - target) ** 2, (1, 2))
    got = metrics.snr(x, target)
    np.testing.assert_allclose(got, 10 * np.log10(power / noise), rtol=1e-12)


def test_snr_knows_no_scale_and_pools_pytrees(rng):
    x, target = rng.normal(size=(2, 4, 6))
    expected = metrics.snr(x, target)
    np.testing.assert_allclose(metrics.snr(50 * x, 50 * target), expected, rtol=1e-12)
    split = [{"a": y[:, :2], "b": y[:, 2:].reshape(4, 2, 2)} for y in (x, target)]
    np.testing.assert_allclose(metrics.snr(*split), expected, rtol=1e-12)


@pytest.mark.parametrize("peak", [1.0, 2.0, 255.0, 8.0])
def test_psnr_knows_the_scale_that_it_is_told(rng, peak):
    x, target = rng.uniform(-1, 1, (2, 5, 3, 2))
    expected = metrics.psnr(x, target)
    got = metrics.psnr(x * peak / 2, target * peak / 2, peak)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    told = functools.partial(metrics.psnr, data_range=peak)
    np.testing.assert_allclose(
        jax.jit(told)(x, target), expected + 20 * np.log10(peak / 2), rtol=1e-12
    )


def test_the_range_of_data_is_measured():
    data = {"a": np.array([[-0.3, 1.0]]), "b": jnp.array([[7.7, 2.0]], jnp.float64)}
    np.testing.assert_allclose(metrics.data_range(data), 8.0, rtol=1e-12)
    assert metrics.data_range(np.arange(256, dtype=np.uint8)) == 255.0
    for empty in (np.zeros((0, 2)), {}, np.ones(3), np.array([1.0, np.nan])):
        with pytest.raises(ValueError, match="expected data of finite numbers that"):
            metrics.data_range(empty)


@pytest.mark.parametrize("peak", [0.0, -1.0, np.inf, np.nan])
def test_a_range_without_meaning_is_refused(peak):
    with pytest.raises(ValueError, match="data_range must be positive and finite"):
        metrics.psnr(np.zeros((2, 3)), np.ones((2, 3)), peak)


# --- what no metric takes ------------------------------------------------------------

OF_PAIRS = {
    "mean_squared_error": metrics.mean_squared_error,
    "psnr": metrics.psnr,
    "snr": metrics.snr,
    "psnr_loss": distill.psnr_loss,
    "mse_loss": distill.mse_loss,
    "snr_loss": distill.snr_loss,
    "huber_loss": distill.huber_loss(),
}
OF_ARRAYS = {
    "data_range": metrics.data_range,
    "bootstrap_interval": metrics.bootstrap_interval,
    "moments": lambda x: metrics.moments(x.reshape(-1, 1)),
    "statistics": lambda x: metrics.statistics(x.reshape(-1, 1), lambda y: y),
    "frechet_distance": lambda x: metrics.frechet_distance(
        metrics.Gaussian(x, np.eye(len(x))), metrics.Gaussian(x, np.eye(len(x)))
    ),
    "image_statistics": lambda x: metrics.image_statistics(
        x.reshape(-1, 1, 1, 1), lambda y: y.reshape(-1, 1)
    ),
}


def test_every_public_metric_is_checked():
    others = {
        "fid",
        "merge",
        "gaussian",
        "to_bytes",
        "decoded_psnr",
    }  # by those that they call
    files = {"read_statistics", "write_statistics"}
    public = {name for name in dir(metrics) if callable(getattr(metrics, name))}
    classes = {"Gaussian", "Moments"}
    assert public - others - files - classes == {
        *(name for name in OF_PAIRS if hasattr(metrics, name)),
        *OF_ARRAYS,
    }


UNEQUAL = [
    (np.zeros((4, 1)), np.arange(4.0), r"got \(4, 1\) and \(4,\)"),
    (np.zeros((4, 3)), np.zeros((4, 1)), r"got \(4, 3\) and \(4, 1\)"),
    (np.zeros((4, 3)), np.zeros((1, 3)), r"got \(4, 3\) and \(1, 3\)"),
    (np.zeros((2, 3)), np.float64(0), r"got .*\(\)"),
    (np.float64(1), np.float64(0), r"batch axis, got shape \(\)"),
    (np.zeros((4, 0)), np.zeros((4, 0)), r"one number .* got shape \(4, 0\)"),
    ({"a": np.zeros((4, 1))}, np.zeros((4, 1)), "one structure, got .*a.* and"),
    ({}, {}, "one structure"),
    (
        {"a": np.zeros((4, 1)), "b": np.zeros((3, 1))},
        {"a": np.zeros((4, 1)), "b": np.zeros((3, 1))},
        r"one leading batch axis, got shape \(3, 1\)",
    ),
]


@pytest.mark.parametrize(("x", "target", "message"), UNEQUAL)
@pytest.mark.parametrize("name", list(OF_PAIRS))
def test_samples_of_other_shapes_than_their_targets_are_refused(
    name, x, target, message
):
    for metric in (OF_PAIRS[name], jax.jit(OF_PAIRS[name])):
        with pytest.raises(ValueError, match=message):
            metric(x, target)


@pytest.mark.parametrize("name", list(OF_PAIRS))
def test_complex_samples_and_what_are_no_numbers_are_refused(name):
    ones = np.ones((2, 3))
    for pair in ((1j * ones, ones), (ones, jnp.asarray(1j * ones))):
        with pytest.raises(ValueError, match="expected real numbers, got complex128"):
            OF_PAIRS[name](*pair)
    with pytest.raises(TypeError, match="expected an array of numbers, got <U1"):
        OF_PAIRS[name](np.full((2, 3), "x"), ones)


@pytest.mark.parametrize("name", list(OF_ARRAYS))
def test_complex_arrays_and_what_are_no_numbers_are_refused(name):
    with pytest.raises(ValueError, match="got complex128"):
        OF_ARRAYS[name](np.arange(1, 5) * 1j)
    with pytest.raises((TypeError, ValueError), match="got <U1"):
        OF_ARRAYS[name](np.full(4, "x"))


def test_no_samples_have_no_metric():
    assert metrics.psnr(np.zeros((0, 3)), np.zeros((0, 3))).shape == (0,)


# --- the bootstrap -------------------------------------------------------------------


def test_the_interval_covers_the_mean_as_often_as_it_says(rng):
    covered = 0
    for seed in range(200):
        low, high = metrics.bootstrap_interval(
            rng.normal(3.0, 2.0, 60), resamples=500, seed=seed
        )
        covered += low < 3.0 < high
    # 4 standard deviations of a binomial, and what 60 values are short of the normal.
    assert 0.95 - 0.08 < covered / 200 < 0.95 + 0.05


def test_the_interval_is_that_of_the_normal_distribution(rng):
    # Its half width is 1.96 standard errors, and falls as 1 / sqrt(N).
    for count in (400, 1600):
        values = rng.normal(size=count)
        low, high = metrics.bootstrap_interval(values)
        width = 2 * 1.96 * np.std(values) / np.sqrt(count)
        np.testing.assert_allclose(high - low, width, rtol=0.1)
        assert low < np.mean(values) < high


def test_more_confidence_needs_a_wider_interval(rng):
    values = rng.normal(size=50)
    low, high = metrics.bootstrap_interval(values, 0.5)
    lower, higher = metrics.bootstrap_interval(values, 0.99)
    assert lower < low < high < higher


def test_the_seed_decides_the_interval(rng):
    values = rng.normal(size=50)
    intervals = [metrics.bootstrap_interval(values, seed=s) for s in (3, 3, 4)]
    assert intervals[0] == intervals[1] != intervals[2]


def test_equal_values_are_sure():
    np.testing.assert_allclose(metrics.bootstrap_interval(np.full(9, 2.5)), (2.5, 2.5))


@pytest.mark.parametrize(
    ("values", "confidence", "message"),
    [
        (np.ones((2, 3)), 0.95, r"vector of finite values, got shape \(2, 3\)"),
        (np.ones(0), 0.95, r"got shape \(0,\)"),
        (np.array([1.0, np.nan, np.inf]), 0.95, "with 2 that are not"),
        (np.ones(3), 1.0, r"confidence must lie in \(0, 1\), got 1.0"),
        (np.ones(3), 0.0, r"confidence must lie in \(0, 1\), got 0.0"),
    ],
)
def test_an_interval_without_meaning_is_refused(values, confidence, message):
    with pytest.raises(ValueError, match=message):
        metrics.bootstrap_interval(values, confidence)
