"""Laws of the U-Net: a function of (t, x, label) that keeps shape, dtype, samples."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax.models import UNet, UNetConfig
from bns_jax.models.unet import GroupNorm
from tests.laws import first_of

CONFIG = UNetConfig(
    image_shape=(4, 8, 2), num_classes=3, channels=(4, 8), embedding=8, groups=2
)
NULL = CONFIG.num_classes


def images(count, seed=0, dtype=jnp.float32):
    shape = (count, *CONFIG.image_shape)
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@pytest.fixture(scope="module")
def weights():
    """Random ones: those of a fresh network make it answer 0."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
        UNet(CONFIG).shapes(),
    )


@pytest.fixture(scope="module")
def network(weights):
    """Calls the network on a batch of four; one program for all tests."""
    apply = jax.jit(UNet(CONFIG).apply, static_argnames="train")

    def run(t, x, label, **kwargs):
        t, label = jnp.asarray(t, x.dtype), jnp.asarray(label)
        return np.asarray(apply({"params": weights}, t, x, label, **kwargs))

    return run


LABEL = np.array([0, 2, NULL, 1])


def test_the_output_is_like_x(network):
    out = network(0.3, images(4), LABEL)
    assert out.shape == (4, *CONFIG.image_shape)
    assert out.dtype == np.float32
    assert np.all(np.isfinite(out))
    assert out.std() > 0.1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_the_output_has_the_dtype_of_x(weights, dtype):
    x = jax.ShapeDtypeStruct((3, *CONFIG.image_shape), dtype)
    label = jax.ShapeDtypeStruct((3,), jnp.int32)
    with jax.numpy_dtype_promotion("standard"):
        out = jax.eval_shape(UNet(CONFIG).apply, {"params": weights}, 0.3, x, label)
    assert (out.shape, out.dtype) == (x.shape, dtype)


def test_time_and_label_matter_and_null_is_a_label_of_its_own(network):
    x = jnp.tile(images(1), (NULL + 1, 1, 1, 1))
    out = network(0.3, x, range(NULL + 1))
    for i in range(NULL + 1):
        for j in range(i):
            assert np.abs(out[i] - out[j]).max() > 1e-3
    assert np.abs(network(0.8, x, range(NULL + 1)) - out).max() > 1e-3


def test_samples_do_not_see_each_other(network):
    x = images(4)
    together = network(0.3, x, LABEL)
    other = network(0.3, jnp.concatenate([x[:1], images(3, seed=9)]), [0, 1, 1, 1])
    np.testing.assert_allclose(other[0], together[0], rtol=0, atol=1e-5)


def test_one_time_for_all_is_that_time_for_each(network):
    x = images(4)
    each, for_all = network([0.3] * 4, x, LABEL), network(0.3, x, LABEL)
    np.testing.assert_allclose(each, for_all, rtol=0, atol=1e-5)


@pytest.mark.exhaustive
def test_dropout_is_for_training_alone(network):
    x = images(4)
    dropped = [
        network(0.3, x, LABEL, train=True, rngs={"dropout": jax.random.key(seed)})
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert np.abs(dropped[0] - dropped[2]).max() > 1e-3
    # Without training it needs no key, and drops nothing.
    plain = network(0.3, x, LABEL)
    np.testing.assert_array_equal(network(0.3, x, LABEL), plain)
    assert np.abs(dropped[0] - plain).max() > 1e-3


def test_a_configuration_survives_json():
    values = json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    assert UNetConfig.from_dict(values) == CONFIG
    for changed in (values | {"depth": 3}, {"channels": [8]}):
        with pytest.raises(ValueError, match="configuration has the entries"):
            UNetConfig.from_dict(changed)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"image_shape": (6, 8, 1), "channels": (8, 8, 8)},
            "multiples of 4, got 6 x 8",
        ),
        ({"image_shape": (8, 7, 1)}, "multiples of 2, got 8 x 7"),
        ({"channels": (24, 60)}, r"groups=8 and channels=\(24, 60\)"),
        ({"channels": ()}, r"at least one level.*got channels=\(\)"),
        ({"groups": 0}, "one group, .* groups=0"),
    ],
)
def test_an_impossible_architecture_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**kwargs)


@pytest.mark.parametrize(
    "shape", first_of([(3, 12), (3, 5, 12), (3, 4, 2, 12)], (3, 4, 2, 12))
)
def test_group_norm_is_that_of_flax(shape):
    rng = np.random.default_rng(2)
    scale, bias = jnp.asarray(rng.normal(size=(2, 12)))
    params, h = {"params": {"scale": scale, "bias": bias}}, rng.normal(size=shape)
    own = jax.jit(GroupNorm(4).apply)(params, jnp.asarray(h))
    with jax.numpy_dtype_promotion("standard"):
        flax = jax.jit(nn.GroupNorm(4).apply)(params, jnp.asarray(h))
    np.testing.assert_allclose(own, flax, rtol=1e-12)


def test_group_norm_of_what_does_not_vary_is_its_bias():
    params = {"params": {"scale": jnp.ones(4), "bias": jnp.arange(4.0)}}
    out = jax.jit(GroupNorm(2).apply)(params, jnp.full((2, 3, 3, 4), 1e3))
    np.testing.assert_allclose(out, np.broadcast_to(np.arange(4.0), out.shape))
