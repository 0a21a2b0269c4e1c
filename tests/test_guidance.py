"""Laws of classifier-free guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import ground_truth, schedulers, velocity
from bns_jax.guidance import with_scale_as_argument
from tests.fields import Gaussian
from tests.laws import assert_close

X = jnp.asarray([-1.3, 0.2, 2.4])


def test_guidance_is_the_formula():
    def cond(t, x):
        return jnp.sin(x)

    def uncond(t, x):
        return x**2

    for w in (0.2, 1.0, -0.5):
        expected = (1 + w) * np.sin(X) - w * np.asarray(X) ** 2
        assert_close(velocity.guided(cond, uncond, w)(0.5, X), expected, 1e-14)


def test_no_guidance_is_the_conditional_field_and_asks_no_other():
    def never(t, x):
        raise AssertionError("called")

    vf = velocity.guided(lambda t, x: 2 * x, never, 0.0)
    assert_close(vf(0.5, X), 2 * X, 0.0)
    traced = jax.jit(
        lambda w: velocity.guided(lambda t, x: 2 * x, lambda t, x: x, w)(0.5, X)
    )
    assert_close(traced(jnp.asarray(0.0)), 2 * X, 0.0)


def test_guidance_is_affine_in_its_scale():
    def at(w):
        return velocity.guided(lambda t, x: jnp.cos(x), lambda t, x: x, w)(0.1, X)

    assert_close(at(2.0) - at(1.0), at(1.0) - at(0.0), 1e-14)


@pytest.mark.parametrize("scale", [0.5, np.float32(0.5), np.full(2, 0.5)])
def test_a_guided_field_can_be_jitted_as_it_is(scale):
    x = np.ones((2, 3))
    got = jax.jit(velocity.guided(cond, uncond, scale))(0.5, x)
    np.testing.assert_allclose(got, 1.5 * cond(0.5, x) - 0.5 * uncond(0.5, x))


def test_guidance_of_one_field_changes_nothing():
    field = Gaussian(schedulers.vp())
    vf = velocity.from_epsilon(field.epsilon, field.scheduler)
    assert_close(velocity.guided(vf, vf, 3.0)(0.5, X), vf(0.5, X), 1e-13)


def test_guiding_predictions_is_guiding_velocities():
    path = schedulers.vp()
    cond = velocity.from_epsilon(Gaussian(path, mean=1.0).epsilon, path)
    uncond = velocity.from_epsilon(Gaussian(path, mean=-1.0).epsilon, path)
    vf, t = velocity.guided(cond, uncond, 0.7), jnp.asarray(0.6)
    assert vf.scheduler == path
    ends = vf.ends(t, X)
    u = path.d_alpha(t) * ends.data + path.d_sigma(t) * ends.noise
    assert_close(vf(t, X), u, 1e-12)


def test_guided_fields_of_different_paths_have_no_scheduler():
    cond = velocity.from_data(lambda t, x: x, schedulers.vp())
    uncond = velocity.from_data(lambda t, x: x, schedulers.ve())
    assert velocity.guided(cond, uncond, 1.0).scheduler is None


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_guidance_keeps_dtypes(dtype):
    vf = velocity.guided(lambda t, x: x, lambda t, x: -x, jnp.asarray(0.5))
    assert vf(0.5, X.astype(dtype)).dtype == dtype


def cond(t, x):
    return jnp.sin(x)


def uncond(t, x):
    return x**2


IMAGES = np.random.default_rng(0).normal(size=(3, 2, 2, 4))
SCALES = np.array([0.0, 1.0, 2.0])


def formula(w, x):
    return (1 + w) * np.sin(x) - w * x**2


@pytest.mark.parametrize(
    "shape", [(3,), (3, 1, 1, 1), (3, 2, 1, 4), (1, 1, 1, 1), ()], ids=str
)
@pytest.mark.parametrize("as_argument", [False, True])
def test_a_scale_is_per_sample_or_broadcasts(shape, as_argument):
    w = np.broadcast_to(SCALES.reshape(3, 1, 1, 1), (3, 2, 2, 4))
    w = w[tuple(slice(None if s > 1 else 1) for s in shape)] if len(shape) > 1 else w
    if shape in [(), (3,)]:
        w = SCALES if shape else np.float64(0.7)
    full = np.reshape(w, (-1, 1, 1, 1)) if shape == (3,) else w
    if as_argument:
        got = velocity.guided(cond, uncond, None)(0.5, IMAGES, jnp.asarray(w))
    else:
        vf = velocity.guided(cond, uncond, w)
        got = jax.jit(lambda x: vf(0.5, x))(IMAGES)
    assert_close(got, formula(full, IMAGES), 1e-14)


@pytest.mark.parametrize(
    "shape", [(2,), (4,), (2, 2, 4), (1, 3, 1, 1), (3, 1)], ids=str
)
def test_a_scale_of_another_shape_is_refused(shape):
    vf = velocity.guided(cond, uncond, np.ones(shape))
    with pytest.raises(
        ValueError, match=r"expected shape \(\), \(3,\) or one that fits"
    ):
        vf(0.5, IMAGES)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (np.inf, "must be finite, got inf"),
        (np.array([0.1, np.nan]), "must be finite"),
        (1j, "must be a real number"),
        ("2", "must be a real number"),
        (True, "must be a real number"),
    ],
)
def test_a_scale_that_is_no_number_is_refused(scale, message):
    with pytest.raises(ValueError, match=message):
        velocity.guided(cond, uncond, scale)


def test_a_scale_that_is_an_argument_must_be_given():
    with pytest.raises(ValueError, match="guidance scale, got none"):
        velocity.guided(cond, uncond, None)(0.5, X)


def test_the_leading_channels_alone_are_guided():
    got = velocity.guided(cond, uncond, 0.7, channels=3)(0.5, IMAGES)
    assert_close(got[..., :3], formula(0.7, IMAGES[..., :3]), 1e-14)
    assert_close(got[..., 3:], np.sin(IMAGES[..., 3:]), 1e-14)
    with pytest.raises(ValueError, match="guidance of 5 channels"):
        velocity.guided(cond, uncond, 0.7, channels=5)(0.5, IMAGES)
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        velocity.guided(cond, uncond, 0.7, channels=0)
    for channels in (1.5, True, "3"):
        with pytest.raises(ValueError, match="channels must be a whole number, got"):
            velocity.guided(cond, uncond, 0.7, channels=channels)


@pytest.mark.parametrize("which", ["conditional", "unconditional"])
def test_a_branch_of_another_shape_is_named(which):
    branches = {"conditional": cond, "unconditional": uncond}
    branches[which] = lambda t, x: x[:1]
    vf = velocity.guided(*branches.values(), 0.5)
    with pytest.raises(ValueError, match=rf"the {which} field must return the shape"):
        vf(0.5, IMAGES)


def solved_of_scales(held, *given):
    """Pairs of x' = (1 + w) x - w (-x) = (1 + 2 w) x, whose flow is exact."""
    vf = velocity.guided(lambda t, x: x, lambda t, x: -x, held)
    solved = ground_truth.pairs(vf, NOISE, *given, rtol=1e-9, atol=1e-9, chunk=2)
    assert_close(solved.x1, np.exp(1 + 2 * OWN_SCALES)[:, None] * NOISE, 1e-7)
    return solved


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1, 1), (1, 2, 2, 4)])
def test_a_scale_per_sample_goes_with_its_samples(shape):
    vf = velocity.guided(cond, uncond, np.resize(SCALES, shape))
    apart, more = with_scale_as_argument(vf, 3)
    assert len(more) == 1 and len(more[0]) == 3
    whole, rows = vf(0.5, IMAGES), np.array([2, 0])
    got = apart(0.5, IMAGES[rows], *(leaf[rows] for leaf in more))
    assert_close(got, whole[rows], 1e-14)


@pytest.mark.parametrize("scale", [0.7, np.float32(0.7), None])
def test_one_scale_for_all_stays_where_it_is(scale):
    vf = velocity.guided(cond, uncond, scale)
    assert with_scale_as_argument(vf, 3) == (vf, ())


def test_scales_of_other_samples_do_not_go_with_them():
    vf = velocity.guided(cond, uncond, np.ones(4))
    with pytest.raises(
        ValueError, match=r"expected shape \(\) or \(3, ...\), got \(4,"
    ):
        with_scale_as_argument(vf, 3)


NOISE = np.random.default_rng(0).normal(size=(5, 2))
OWN_SCALES = np.linspace(-0.5, 0.5, 5)


@pytest.mark.exhaustive
def test_pairs_solve_each_sample_at_the_scale_that_is_its_argument():
    solved = solved_of_scales(None, OWN_SCALES)
    assert_close(solved.args[0], OWN_SCALES, 0.0)


@pytest.mark.exhaustive
def test_pairs_solve_each_sample_at_its_own_scale():
    by_argument = solved_of_scales(None, OWN_SCALES)
    for shape in ((5,), (5, 1)):
        solved = solved_of_scales(OWN_SCALES.reshape(shape))
        assert_close(by_argument.x1, solved.x1, 1e-12)
        assert solved.args == ()
