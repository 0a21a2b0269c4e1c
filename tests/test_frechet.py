"""Laws of streaming statistics, of the Fréchet distance, and of reference files."""

import io
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from bns_jax import metrics
from bns_jax.metrics import Gaussian

SIZE = 6


def random_gaussian(rng, size=SIZE, offset=0.0):
    root = rng.normal(size=(size, size + 2))
    return Gaussian(offset + rng.normal(size=size), root @ root.T)


def rotation(rng, size=SIZE):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def flat(batch):
    """A feature function: the entries of each sample."""
    return np.reshape(batch, (len(batch), -1))


# --- streaming statistics ------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    cuts=st.lists(st.integers(1, 39), max_size=6, unique=True),
    batch=st.integers(1, 45),
    mean=st.sampled_from([0.0, 1.0, 1e6]),
)
def test_any_split_gives_the_statistics_of_the_whole(cuts, batch, mean):
    samples = mean + np.random.default_rng(0).normal(size=(40, 2, 3))
    chunks = np.split(samples, sorted(cuts))
    got = metrics.statistics(iter(chunks), flat, batch)
    whole = flat(samples)
    np.testing.assert_allclose(got.mean, np.mean(whole, 0), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(got.covariance, np.cov(whole.T), rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(cut=st.integers(1, 19))
def test_merging_two_parts_gives_the_moments_of_the_whole(cut):
    features = np.random.default_rng(1).normal(size=(20, SIZE))
    first, second = metrics.moments(features[:cut]), metrics.moments(features[cut:])
    whole = metrics.moments(features)
    for merged in (metrics.merge(first, second), metrics.merge(second, first)):
        assert merged.number == 20
        np.testing.assert_allclose(merged.mean, whole.mean, atol=1e-14)
        np.testing.assert_allclose(merged.scatter, whole.scatter, atol=1e-12)


def test_a_mean_far_from_zero_costs_no_digits(rng):
    # Of the usual E[x x'] - m m' nothing would be left: 1e20 beside 1.
    samples = rng.integers(-8, 9, (50, SIZE)).astype(np.float64)
    near = metrics.statistics(samples, flat, 7)
    far = metrics.statistics(samples + 1e10, flat, 7)
    np.testing.assert_allclose(far.covariance, near.covariance, rtol=1e-5, atol=1e-5)


def test_float32_features_are_summed_in_float64(rng):
    samples = (1000 + rng.normal(size=(3000, 2))).astype(np.float32)
    got = metrics.statistics(jnp.asarray(samples), jnp.asarray, 50)
    assert got.mean.dtype == got.covariance.dtype == np.float64
    wide = samples.astype(np.float64)
    np.testing.assert_allclose(got.covariance, np.cov(wide.T), rtol=1e-10, atol=1e-10)


def test_every_call_of_the_features_has_one_shape():
    shapes = set()

    def features(batch):
        shapes.add(batch.shape)
        return flat(batch)

    chunks = [np.random.default_rng(n).normal(size=(n, 2, 2)) for n in (1, 9, 0, 3)]
    metrics.statistics(chunks, features, 4)
    assert shapes == {(4, 2, 2)}


@pytest.mark.parametrize("number", [2, SIZE])
def test_too_few_samples_warn_and_say_why(rng, number):
    with pytest.warns(UserWarning, match=rf"{number} samples .* rank {number - 1} at"):
        metrics.statistics(rng.normal(size=(number, SIZE)), flat)


def test_moments_of_other_features_do_not_merge(rng):
    first, second = (metrics.moments(rng.normal(size=(9, n))) for n in (3, 4))
    with pytest.raises(ValueError, match="got 3 and 4 dimensions"):
        metrics.merge(first, second)


def test_enough_samples_do_not_warn(rng):
    metrics.statistics(rng.normal(size=(SIZE + 1, SIZE)), flat)


@pytest.mark.parametrize(
    ("samples", "features", "batch", "message"),
    [
        (np.zeros((1, 3)), flat, 2, "at least 2 samples, got 1"),
        (np.zeros((0, 3)), flat, 2, "at least 2 samples, got none"),
        ([], flat, 2, "at least 2 samples, got none"),
        (np.zeros((4, 3)), flat, 0, "a batch of at least 1 sample, got 0"),
        (np.zeros((4, 3)), np.sum, 2, r"shape \(2, d\), got \(\)"),
        (np.zeros((4, 3)), lambda x: x[:1], 2, r"shape \(2, d\), got \(1, 3\)"),
        (np.full((4, 3), np.nan), flat, 2, "with 9 that are not finite"),
    ],
)
def test_what_gives_no_statistics_is_refused(samples, features, batch, message):
    with pytest.raises(ValueError, match=message):
        metrics.statistics(samples, features, batch)


# --- the distance --------------------------------------------------------------------


def by_sqrtm(first, second):
    """The textbook formula, with a root of the product."""
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance)
    spread = np.trace(first.covariance + second.covariance - 2 * root)
    return np.sum((first.mean - second.mean) ** 2) + spread.real


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_it_agrees_with_a_root_of_the_product(rng, size):
    first, second = random_gaussian(rng, size), random_gaussian(rng, size)
    expected = by_sqrtm(first, second)
    got = metrics.frechet_distance(first, second)
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_close_gaussians_keep_their_digits(rng):
    # The distance is 1e-5 of the traces whose difference it is.
    first = random_gaussian(rng, 30)
    second = Gaussian(first.mean + 1e-3, 1.002 * first.covariance)
    got = metrics.frechet_distance(first, second)
    scaled = (np.sqrt(1.002) - 1) ** 2 * np.trace(first.covariance)
    np.testing.assert_allclose(got, 30 * 1e-6 + scaled, rtol=1e-8)


@pytest.mark.parametrize("size", [1, 5, 30])
def test_commuting_covariances_have_a_closed_form(rng, size):
    axes = rotation(rng, size)
    variances = rng.uniform(0.0, 3.0, (2, size)) ** 2
    means = rng.normal(size=(2, size))
    pair = [
        Gaussian(mean, (axes * variance) @ axes.T)
        for mean, variance in zip(means, variances, strict=True)
    ]
    expected = np.sum(np.diff(means, axis=0) ** 2)
    expected += np.sum(np.diff(np.sqrt(variances), axis=0) ** 2)
    np.testing.assert_allclose(metrics.frechet_distance(*pair), expected, rtol=1e-11)


def test_singular_covariances_are_exact_too(rng):
    """tr (C C')^(1/2) is the nuclear norm of X X'^T, a matrix of samples by samples."""
    samples = [rng.normal(size=(n, 60)) * np.exp(-np.arange(60) / 4) for n in (9, 14)]
    with pytest.warns(UserWarning, match="rank"):
        pair = [metrics.statistics(x, flat) for x in samples]
    roots = [(x - np.mean(x, 0)) / np.sqrt(len(x) - 1) for x in samples]
    expected = np.sum((pair[0].mean - pair[1].mean) ** 2)
    expected += sum(np.sum(x**2) for x in roots)
    expected -= 2 * np.linalg.norm(roots[0] @ roots[1].T, "nuc")
    np.testing.assert_allclose(metrics.frechet_distance(*pair), expected, rtol=1e-12)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), size=st.integers(1, 9))
def test_it_is_a_squared_distance_that_motions_leave_alone(seed, size):
    rng = np.random.default_rng(seed)
    a, b, c = (random_gaussian(rng, size) for _ in range(3))
    distance = metrics.frechet_distance
    apart = distance(a, b)
    assert distance(a, a) <= 1e-13 * np.trace(a.covariance)
    assert apart > 0
    np.testing.assert_allclose(distance(b, a), apart, rtol=1e-10)
    assert np.sqrt(distance(a, c)) <= np.sqrt(apart) + np.sqrt(distance(b, c)) + 1e-9

    shift, turn = rng.normal(size=size), rotation(rng, size)
    moved = [
        Gaussian(turn @ g.mean + shift, turn @ g.covariance @ turn.T) for g in (a, b)
    ]
    np.testing.assert_allclose(distance(*moved), apart, rtol=1e-9)
    scaled = [Gaussian(3 * g.mean, 9 * g.covariance) for g in (a, b)]
    np.testing.assert_allclose(distance(*scaled), 9 * apart, rtol=1e-10)
    translated = Gaussian(a.mean + shift, a.covariance)
    np.testing.assert_allclose(distance(a, translated), shift @ shift, rtol=1e-9)


def test_samples_of_two_gaussians_are_as_far_apart_as_they(rng):
    pair = [random_gaussian(rng, 3), random_gaussian(rng, 3)]
    fitted = [
        metrics.statistics(rng.multivariate_normal(*g, size=40_000), flat, 1000)
        for g in pair
    ]
    expected = metrics.frechet_distance(*pair)
    np.testing.assert_allclose(metrics.frechet_distance(*fitted), expected, rtol=0.05)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Gaussian(np.zeros(5), np.eye(5)), "got 6 and 5 dimensions"),
        (Gaussian(np.zeros(6), np.eye(5)), r"got \(6,\) and \(5, 5\)"),
        (Gaussian(np.zeros((6, 1)), np.eye(6)), r"got \(6, 1\) and \(6, 6\)"),
        (Gaussian(np.zeros(0), np.zeros((0, 0))), r"got \(0,\) and \(0, 0\)"),
        (Gaussian(np.full(6, np.nan), np.eye(6)), "a finite mean"),
        (Gaussian(np.zeros(6), np.diag([np.inf] + 5 * [1.0])), "finite"),
        (Gaussian(np.zeros(6), -np.eye(6)), "without negative eigenvalues"),
        (Gaussian(np.zeros(6), np.tri(6)), "off its transpose by 1"),
    ],
)
def test_what_is_no_gaussian_of_the_same_size_is_refused(rng, other, message):
    with pytest.raises(ValueError, match=message):
        metrics.frechet_distance(random_gaussian(rng), other)


def test_rounding_to_float32_makes_no_covariance_unusable(rng):
    root = rng.normal(size=(3, 20))
    rounded = (root.T @ root).astype(np.float32)
    given_ = Gaussian(np.zeros(20, np.float32), rounded)
    assert metrics.frechet_distance(given_, given_) < 1e-4


# --- reference files -----------------------------------------------------------------


def assert_same(got, expected):
    for part, other in zip(got, expected, strict=True):
        assert part.dtype == np.float64
        np.testing.assert_array_equal(part, other)


def test_a_file_holds_what_was_written(rng, tmp_path):
    pooled, spatial = random_gaussian(rng), random_gaussian(rng, 4)
    path = tmp_path / "reference.npz"
    metrics.write_statistics(path, pooled, spatial)
    assert_same(metrics.read_statistics(path), pooled)
    assert_same(metrics.read_statistics(path, spatial=True), spatial)
    with np.load(path) as entries:
        assert set(entries) == {"mu", "sigma", "mu_s", "sigma_s"}

    metrics.write_statistics(path, pooled)
    with np.load(path) as entries:
        assert set(entries) == {"mu", "sigma"}
    with pytest.raises(ValueError, match="entries mu_s, sigma_s, got mu, sigma"):
        metrics.read_statistics(path, spatial=True)


def test_guided_diffusions_images_are_not_read(rng, tmp_path):
    pooled, path = random_gaussian(rng), tmp_path / "VIRTUAL.npz"
    single = {"mu": np.float32(pooled.mean), "sigma": np.float32(pooled.covariance)}
    images = np.array([object()])  # what would be refused if it were read
    np.savez_compressed(path, arr_0=images, mu_s=np.zeros(2), **single)
    got = metrics.read_statistics(str(path))
    np.testing.assert_array_equal(got.mean, single["mu"])
    assert got.covariance.dtype == np.float64


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("code of a file was run",)


def test_code_in_a_file_is_refused(tmp_path):
    path = tmp_path / "evil.npz"
    bomb = np.empty(1, object)
    bomb[0] = Bomb()
    np.savez(path, mu=bomb, sigma=np.eye(1))
    with pytest.raises(ValueError, match=r"evil\.npz .* allow_pickle=False"):
        metrics.read_statistics(path)


def npy(array, version=None):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version)
    return buffer.getvalue()


def npz(**entries):
    buffer = io.BytesIO()
    np.savez(buffer, **entries)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"mu": 1}), "entries mu, sigma, got mu"),
        (pickle.dumps({"fd_dinov2": {"mu": 1}}), "mu, sigma, got fd_dinov2"),
        (pickle.dumps([1, 2]), "a pickle of a list"),
        (pickle.dumps(Bomb()), "a pickle of a Record"),
        (b"mu: 1, sigma: 2", r"expected a \.npz, \.npy or \.pkl file"),
        (npz(x=np.zeros(3), y=np.zeros(3)), "entries mu, sigma, got x, y"),
        (npz(arr_0=np.zeros((3, 2), "c8")), r"features .* got complex64 \(3, 2\)"),
        (npz(arr_0=np.zeros((3, 2, 2))), r"got float64 \(3, 2, 2\)"),
        (npz(mu=np.zeros(3), sigma=np.eye(3))[:-30], "not a zip file"),
        (npz(mu=np.zeros(3)), "entries mu, sigma, got mu"),
        (npy(np.zeros((3, 2)))[:-8], "the array ends before row 3 of 3"),
        (npy(np.zeros((3, 2)), (3, 0)), r"an array of version \(3, 0\)"),
        (npz(mu=np.zeros(3), sigma=np.eye(2)), r"got \(3,\) and \(2, 2\)"),
    ],
)
def test_a_file_without_statistics_is_refused(tmp_path, content, message):
    path = tmp_path / "reference.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"reference\.npz holds no .*{message}"):
        metrics.read_statistics(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_is_an_error_of_one_kind_or_none(tmp_path, save):
    path, buffer = tmp_path / "reference.npz", io.BytesIO()
    save(buffer, mu=np.zeros(3), sigma=np.eye(3))
    data = buffer.getvalue()
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            metrics.read_statistics(path)
        except ValueError as error:
            assert "reference.npz holds no" in str(error)


FOUND = np.random.default_rng(5).normal([1, 2, 3], size=(70, 3))
FITTED = Gaussian(np.mean(FOUND, 0), np.cov(FOUND.T))
ENTRIES = dict(zip(("mu", "sigma"), FITTED, strict=True))
OTHERS = {"mu_s": np.zeros(2), "sigma_s": np.eye(2)}
SHIPPED = {
    "edm": npz(**ENTRIES),
    "guided-diffusion": npz(
        arr_0=np.zeros((9, 2, 2, 3), np.uint8), **ENTRIES, **OTHERS
    ),
    "edm's pickle": pickle.dumps(ENTRIES),
    "edm2's pickle": pickle.dumps({"fid": ENTRIES, "fd_dinov2": OTHERS}, 4),
    "a pickle of a newer protocol": pickle.dumps(ENTRIES, 5),
    "features": npz(arr_0=FOUND),
    "features of a name": npz(pool_3=FOUND),
    "features and labels": npz(arr_0=FOUND, arr_1=np.arange(70)),
    "features alone": npy(FOUND),
}


@pytest.mark.parametrize("kind", list(SHIPPED))
def test_what_evaluators_ship_is_read(tmp_path, kind):
    path = tmp_path / "reference"
    path.write_bytes(SHIPPED[kind])
    got = metrics.read_statistics(path)
    for part, expected in zip(got, FITTED, strict=True):
        assert part.dtype == np.float64
        np.testing.assert_allclose(part, expected, rtol=1e-12)
    if kind == "guided-diffusion":
        assert_same(metrics.read_statistics(path, spatial=True), OTHERS.values())
    else:
        with pytest.raises(ValueError, match="expected the entries mu_s, sigma_s, got"):
            metrics.read_statistics(path, spatial=True)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"no statistics file at {tmp_path}/none"):
        metrics.read_statistics(tmp_path / "none")
    with pytest.raises(ValueError, match=f"no statistics file at {tmp_path}"):
        metrics.read_statistics(tmp_path)


def test_no_file_is_written_of_what_is_no_gaussian(tmp_path):
    with pytest.raises(ValueError, match=r"got \(3,\) and \(2, 2\)"):
        metrics.write_statistics(tmp_path / "x", Gaussian(np.zeros(3), np.eye(2)))
    assert not list(tmp_path.iterdir())


# --- FID -----------------------------------------------------------------------------


def colours(images):
    """A feature function of images: the mean of each channel."""
    return np.mean(images, axis=(1, 2), dtype=np.float64)


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (30, 4, 5, 3)).astype(np.uint8)


def test_fid_is_the_distance_of_the_fitted_gaussians(images, tmp_path):
    found = colours(images)
    reference = Gaussian(np.full(3, 100.0), 50 * np.eye(3))
    fitted = Gaussian(np.mean(found, 0), np.cov(found.T))
    expected = metrics.frechet_distance(fitted, reference)
    metrics.write_statistics(tmp_path / "reference.npz", reference)
    for samples in (lambda: images, lambda: iter(np.split(images, [3, 20]))):
        for against in (reference, tmp_path / "reference.npz"):
            got = metrics.fid(samples(), against, colours, 8)
            np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("save", [np.savez, np.save])
def test_a_file_of_images_is_a_reference(images, tmp_path, save):
    path = tmp_path / ("images.npz" if save is np.savez else "images.npy")
    save(path, images)
    found = colours(images)
    got = metrics.read_statistics(path, features=colours, batch=7)
    np.testing.assert_allclose(got.mean, np.mean(found, 0), rtol=1e-12)
    np.testing.assert_allclose(got.covariance, np.cov(found.T), rtol=1e-12)
    assert metrics.fid(images, path, colours) < 1e-9
    with pytest.raises(ValueError, match=r"images of shape \(4, 5, 3\): expected the"):
        metrics.read_statistics(path)


@pytest.mark.parametrize(
    "given",
    [
        (lambda x: x, None),
        (lambda x: x / 127.5 - 1, None),
        (lambda x: x / 127.5 - 1, (-1, 1)),
        (lambda x: x / 255, (0, 1)),
        (lambda x: x / 255 - 1e-3, (0, 1)),
        (lambda x: x.astype(np.float32), (0, 255)),
        (lambda x: np.asarray(x, np.float64) / 85 - 1.5, (-1.5, 1.5)),
    ],
)
def test_one_and_the_same_image_in_any_range(images, given):
    change, value_range = given
    reference = metrics.image_statistics(images, colours)
    changed = change(images)
    got = metrics.fid(changed, reference, colours, value_range=value_range)
    assert got < 1e-9
    np.testing.assert_array_equal(metrics.to_bytes(changed, value_range), images)


def test_images_in_minus_one_to_one_are_rounded_as_files_are(images, rng):
    reference = metrics.image_statistics(images, colours)
    floating = images / 127.5 - 1 + rng.uniform(-0.003, 0.003, images.shape)
    for dtype in (jnp.float32, jnp.float64):
        assert metrics.fid(jnp.asarray(floating, dtype), reference, colours) < 1e-9
    np.testing.assert_array_equal(
        metrics.to_bytes(np.array([-9, -1, 0.003, 1, 1.7]).reshape(1, 1, 1, 5)),
        np.array([0, 0, 128, 255, 255]).reshape(1, 1, 1, 5),
    )


def test_bfloat16_images_are_taken(images):
    got = metrics.to_bytes(jnp.asarray(images / 127.5 - 1, jnp.bfloat16))
    assert np.max(np.abs(got.astype(int) - images)) <= 1


def test_a_reference_of_another_size_is_refused_at_the_first_batch(images):
    calls = []

    def counted(batch):
        calls.append(len(batch))
        return colours(batch)

    with pytest.raises(ValueError, match=r"are of 7 features, .* shape \(4, 3\)"):
        metrics.fid(images, Gaussian(np.zeros(7), np.eye(7)), counted, 4)
    assert calls == [4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[..., 0], r"\(n, height, width, channels\), got \(30, 4, 5\)"),
        (lambda x: x.astype(np.int32), "or uint8, got int32"),
        (lambda x: x.astype(np.float32), r"from 0 to 25\d; those in \[0, 1\] are to"),
        (lambda x: x / 255, r"from 0 to 1; those in .* with value_range=\(0, 1\)"),
        (
            lambda x: x / 255 * 1.003 - 0.003,
            r"from -0.003 to 1; those .* with value_range=\(0, 1\)",
        ),
        (lambda x: x / 255 * 1.3 - 0.2, r"in \[-1, 1\] with as little as -0.2 below 0"),
        (lambda x: x.transpose(0, 3, 1, 2)[:, :, :, [0] * 5].repeat(2, 2), "first"),
        (lambda x: x * (1 + 1j), "or uint8, got complex128"),
        (lambda x: np.where(x > 9, np.nan, 0.0), "finite"),
        (lambda x: x / 51 - 1, r"\[-1, 1\], got numbers from -1 to 4; say value_range"),
    ],
)
def test_what_are_no_images_is_refused(images, change, message):
    reference = Gaussian(np.zeros(3), np.eye(3))
    with pytest.raises(ValueError, match=message):
        metrics.fid(change(images), reference, colours)


def test_one_number_below_0_does_not_make_a_range(images):
    wild = images.astype(np.float32)
    wild[0, 0, 0, 0] = -0.01
    with pytest.raises(ValueError, match=r"expected images in \[-1, 1\], got numbers"):
        metrics.to_bytes(wild)


@pytest.mark.parametrize(
    ("value_range", "message"),
    [
        ((0, 1), r"in \[0, 1\], got numbers from 0 to 255"),
        (1.0, r"expected a range \(low, high\), got 1.0"),
        ((0, 0.5, 1), r"expected a range \(low, high\), got \(0, 0.5, 1\)"),
        ((1, 0), r"expected a range \(low, high\), got \(1, 0\)"),
        ((0, np.inf), r"expected a range \(low, high\)"),
    ],
)
def test_a_range_that_cannot_be_is_refused(images, value_range, message):
    images = np.where(np.arange(3) == 0, [0.0, 255.0, 0.0], images)
    with pytest.raises(ValueError, match=message):
        metrics.to_bytes(images, value_range)
