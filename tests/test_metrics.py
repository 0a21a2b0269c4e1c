"""Laws of the PSNR."""

import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import metrics


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
