"""FID's Inception network against what pytorch-fid and torch-fidelity computed.

`tests/fixtures/inception.py` says how their figures were made.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import metrics
from bns_jax.models import inception
from bns_jax.models.inception import weights
from bns_jax.models.inception.images import interpolation, prepare
from tests import weight_files
from tests.fixtures import inception as theirs
from tests.laws import first_of

GIVEN = theirs.read()
# The network is traced once, whatever is loaded into it.
weights.parameter_shapes = functools.cache(weights.parameter_shapes)


@pytest.fixture(scope="module")
def tensors():
    return theirs.random_weights(GIVEN["shapes"])


@pytest.fixture(scope="module")
def params(tensors):
    return inception.convert(tensors)


@pytest.fixture(scope="module")
def features(params):
    return inception.features(params)


def worst(got, expected):
    """The largest error, in parts of the largest feature."""
    return np.max(np.abs(np.asarray(got) - expected)) / np.max(np.abs(expected))


# --- features ------------------------------------------------------------------------


@pytest.mark.parametrize("resize", first_of(["pytorch", "tensorflow"], "pytorch"))
def test_features_agree_with_the_original(params, resize):
    got = inception.features(params, resize)(GIVEN["images"])
    assert got.shape == (2, 2048)
    assert got.dtype == jnp.float32
    assert worst(got, GIVEN[resize]) < 1e-5
    # The two differ by far more than that, and so do the images.
    assert worst(GIVEN["pytorch"], GIVEN["tensorflow"]) > 1e-2
    assert worst(GIVEN[resize][:1], GIVEN[resize][1:]) > 1e-1


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", first_of([jnp.float32, jnp.float64], jnp.float64))
def test_floating_point_images_have_the_same_features(params, features, dtype):
    images = jnp.asarray(GIVEN["images"] / 127.5 - 1, dtype)
    assert worst(features(images), GIVEN["pytorch"]) < 1e-5
    brighter = inception.features(params, value_range=(0, 1))
    assert worst(brighter((images + 1) / 2), GIVEN["pytorch"]) < 1e-5


@pytest.mark.exhaustive
def test_a_grey_image_is_repeated(features):
    grey = GIVEN["images"][..., :1]
    expected = np.asarray(features(np.repeat(grey, 3, axis=-1)))
    assert worst(features(grey), expected) < 1e-5


@pytest.mark.exhaustive
def test_the_statistics_of_its_features_stream(features):
    images = np.concatenate([GIVEN["images"], GIVEN["images"][::-1]])[:3]
    with pytest.warns(UserWarning, match="3 samples in 2048 feature dimensions"):
        got = metrics.statistics(images, features, 2)
    expected = GIVEN["pytorch"][[0, 1, 1]].astype(np.float64)
    assert worst(got.mean, np.mean(expected, 0)) < 1e-5
    assert worst(got.covariance, np.cov(expected.T)) < 1e-4


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8), np.uint8), r"height, width, 3\), or 1 .* \(2, 8, 8\)"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"got \(2, 8, 8, 4\)"),
        (
            np.zeros((2, 8, 8, 3), np.int64),
            "floating-point numbers or uint8, got int64",
        ),
        (np.zeros((2, 8, 8, 3)), r"those in \[0, 1\] are to come with value_range"),
    ],
)
def test_what_are_no_images_is_refused(features, images, message):
    with pytest.raises(ValueError, match=message):
        features(images)


def test_an_unknown_resize_is_refused(params):
    with pytest.raises(ValueError, match='"pytorch" or "tensorflow", got \'pil\''):
        inception.features(params, "pil")


@pytest.mark.parametrize(
    ("floating", "value_range"),
    [
        (lambda x: x / 127.5 - 1, None),
        (lambda x: x / 255, (0, 1)),
        (lambda x: x / 85 - 1.5, (-1.5, 1.5)),
    ],
)
def test_images_of_any_range_come_to_the_network_alike(
    monkeypatch, floating, value_range
):
    seen = []
    network = lambda params, images: seen.append(images)  # noqa: E731
    monkeypatch.setattr("bns_jax.models.inception.images._network", network)
    given = floating(GIVEN["images"].astype(np.float64))
    inception.features({}, value_range=value_range)(given)
    inception.features({})(GIVEN["images"])
    assert seen[0].dtype == seen[1].dtype == jnp.float32
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-5)


def test_of_8_bits_tensorflow_makes_less_than_one(rng):
    """(x - 128) / 128; images of 299 pixels are not resized."""
    images = rng.integers(0, 256, (1, 299, 299, 3)).astype(np.uint8)
    expected = (images.astype(np.float64) - 128) / 128
    np.testing.assert_allclose(prepare(images, "tensorflow"), expected, atol=1e-5)
    floating = (images / 127.5 - 1).astype(np.float32)
    np.testing.assert_allclose(prepare(floating, "tensorflow"), expected, atol=1e-5)


# --- the resize ----------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 32, 299, 300, 640])
def test_it_is_bilinear_between_pixel_centres(side):
    lines = np.random.default_rng(0).normal(size=(side, 4)).astype(np.float32)
    expected = jax.image.resize(lines, (299, 4), "linear", antialias=False)
    got = interpolation(side, "pytorch") @ lines
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("side", [1, 2, 32, 299, 640])
def test_tensorflows_lays_corners_over_one_another(side):
    matrix = interpolation(side, "tensorflow")
    places = np.minimum(np.arange(299) * side / 299, side - 1)
    # Interpolated linearly, a ramp gives the places themselves.
    np.testing.assert_allclose(matrix @ np.arange(side), places, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.sum(matrix, 1), 1.0, rtol=1e-6)
    assert np.max(np.sum(matrix > 0, 1)) <= 2


@pytest.mark.parametrize("resize", ["pytorch", "tensorflow"])
def test_images_of_its_own_size_are_left_alone(resize):
    np.testing.assert_array_equal(interpolation(299, resize), np.eye(299))


# --- weights -------------------------------------------------------------------------


def test_every_tensor_of_the_published_file_is_accounted_for(params):
    assert len(GIVEN["shapes"]) == 94 * 5 + 2
    sizes = {name: np.prod(shape) for name, shape in GIVEN["shapes"].items()}
    convolutions = sum(n for name, n in sizes.items() if name.endswith("conv.weight"))
    biases = sum(n for name, n in sizes.items() if name.endswith("bn.bias"))
    leaves = jax.tree.leaves(params)
    assert sum(leaf.size for leaf in leaves) == convolutions + biases == 21_768_352
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}
    shapes = jax.tree.map(jnp.shape, weights.parameter_shapes())
    assert jax.tree.map(np.shape, params) == shapes


def test_batch_counters_are_passed_over(tensors, params):
    counters = {
        name.replace("running_var", "num_batches_tracked"): np.int64(0)
        for name in tensors
        if name.endswith("running_var")
    }
    got = inception.convert(tensors | counters)
    np.testing.assert_array_equal(
        got["Mixed_7c"]["branch1x1"]["kernel"],
        params["Mixed_7c"]["branch1x1"]["kernel"],
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: {k: v for k, v in t.items() if k != "Mixed_7c.branch1x1.bn.bias"},
            r"missing Mixed_7c\.branch1x1\.bn\.bias$",
        ),
        (lambda t: t | {"extra": np.zeros(1)}, "left over extra$"),
        (
            lambda t: (
                t | {"Mixed_5b.branch5x5_2.conv.weight": np.zeros((64, 48, 3, 3))}
            ),
            r"Mixed_5b\.branch5x5_2\.conv\.weight: expected shape \(64, 48, 5, 5\), "
            r"got \(64, 48, 3, 3\)$",
        ),
        (
            lambda t: t | {"fc.weight": np.zeros((1000, 2048))},
            r"look like torchvision's .* fc\.weight: expected shape \(1008, 2048\)",
        ),
        (lambda t: {"conv1.weight": np.zeros(1)}, "missing Conv2d_1a_3x3.*over conv1"),
    ],
)
def test_what_does_not_fit_is_named(tensors, change, message):
    with pytest.raises(ValueError, match=f"does not fit the Inception .*{message}"):
        inception.load(change(tensors))


@pytest.mark.parametrize(
    "write", first_of([weight_files.archive, weight_files.safe], weight_files.archive)
)
def test_a_file_is_read(tensors, params, tmp_path, write):
    path = tmp_path / "inception"
    path.write_bytes(write(tensors))
    jax.tree.map(np.testing.assert_array_equal, inception.load(path), params)

    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="inception was not read"):
        inception.load(path)
    with pytest.raises(ValueError, match="no weights file at"):
        inception.load(tmp_path / "missing")
