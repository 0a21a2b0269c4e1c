"""Laws of the velocity conversions (Table 1, eq. 5) and of guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import schedulers, velocity
from tests.fields import Gaussian
from tests.laws import ALL_SCHEDULERS, assert_close
from tests.parity import mixture

TIMES = (0.02, 0.31, 0.5, 0.977)
X = jnp.asarray([-1.3, 0.2, 2.4])

each_scheduler = pytest.mark.parametrize(
    "scheduler", list(ALL_SCHEDULERS.values()), ids=list(ALL_SCHEDULERS)
)
each_prediction = pytest.mark.parametrize(
    "kind", ["epsilon", "score", "data", "v", "denoiser"]
)


def model(kind, field, scheduler):
    networks = {
        "epsilon": (velocity.from_epsilon, field.epsilon),
        "score": (velocity.from_score, field.score),
        "data": (velocity.from_data, field.data),
        "v": (velocity.from_v, field.v),
        "denoiser": (velocity.from_denoiser, field.denoiser),
    }
    convert, network = networks[kind]
    return convert(network, scheduler)


@each_scheduler
@each_prediction
def test_every_prediction_gives_the_velocity_of_the_closed_form_flow(kind, scheduler):
    field = Gaussian(scheduler)
    vf = model(kind, field, scheduler)
    for t in map(jnp.asarray, TIMES):
        x, u = jax.jvp(lambda end: field.flow(0.1, end, X), (t,), (jnp.ones(()),))
        assert_close(vf(t, x), u, 1e-8)


@each_scheduler
@each_prediction
def test_ends_are_those_of_the_posterior(kind, scheduler):
    field, t = Gaussian(scheduler), jnp.asarray(0.4)
    ends = model(kind, field, scheduler).ends(t, X)
    assert_close(ends.data, field.data(t, X), 1e-8)
    assert_close(ends.noise, field.epsilon(t, X), 1e-8)


@pytest.mark.parametrize(
    "path", [schedulers.vp(10.0, 10.0), schedulers.ve(), schedulers.cond_ot()], ids=str
)
def test_a_score_is_the_gradient_of_the_log_density(path):
    def log_density(t, x):
        alpha, variance = (
            path.alpha(t),
            path.alpha(t) ** 2 * 0.3**2 + path.sigma(t) ** 2,
        )
        away = x[None] - alpha * mixture.CENTRES
        return jax.nn.logsumexp(-jnp.sum(away**2, axis=-1) / (2 * variance))

    def score(t, x):
        return jax.vmap(jax.grad(log_density, argnums=1), (None, 0))(t, x)

    x = jnp.asarray(mixture.X0)
    for t in (0.2, 0.7):
        got = velocity.from_score(score, path)(t, x)
        assert_close(got, mixture.velocity(path)(t, mixture.X0), 1e-9)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("data", schedulers.cond_ot()),
        ("v", schedulers.cond_ot()),
        ("denoiser", schedulers.ve()),
        ("epsilon", schedulers.ve()),
    ],
    ids=str,
)
def test_predictions_that_are_defined_at_both_ends_are_finite_there(kind, path):
    vf = model(kind, Gaussian(path), path)
    for t in (0.0, 1.0):
        assert np.all(np.isfinite(vf(t, X)))


def test_a_denoiser_samples_on_the_exploding_path_unless_told_otherwise():
    vf = velocity.from_denoiser(Gaussian(schedulers.ve()).denoiser)
    assert_close(vf(0.3, X), Gaussian(schedulers.ve()).velocity(0.3, X), 1e-10)


def test_a_denoiser_is_asked_at_its_noise_level():
    asked = []

    def network(sigma, x):
        asked.append((float(sigma), x))
        return x

    velocity.from_denoiser(network, schedulers.cond_ot())(0.25, X)
    ((sigma, x),) = asked
    assert_close(sigma, 3.0, 1e-14)
    assert_close(x, 4.0 * X, 1e-14)


def test_conditioning_is_handed_on():
    path = schedulers.cond_ot()
    vf = velocity.from_data(lambda t, x, label, scale: scale * label + 0 * x, path)
    assert_close(
        vf(0.5, X, jnp.asarray(2.0), 3.0),
        velocity.from_data(lambda t, x: 6.0 + 0 * x, path)(0.5, X),
        1e-14,
    )


def test_trees_are_mapped_leaf_by_leaf():
    field = Gaussian(schedulers.cosine())

    def network(t, x):
        return jax.tree.map(lambda leaf: field.epsilon(t, leaf), x)

    x = {"image": X, "text": (X[:2, None],)}
    got = velocity.from_epsilon(network, field.scheduler)(0.3, x)
    for u, leaf in zip(jax.tree.leaves(got), jax.tree.leaves(x), strict=True):
        assert_close(u, field.velocity(0.3, leaf), 1e-12)


@each_prediction
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_dtype_of_x_is_kept_and_time_is_at_least_float32(kind, dtype):
    path, seen = schedulers.cond_ot(), []

    def network(t, x):
        seen.append(t.dtype)
        return x

    makers = {
        "epsilon": velocity.from_epsilon,
        "score": velocity.from_score,
        "data": velocity.from_data,
        "v": velocity.from_v,
        "denoiser": velocity.from_denoiser,
    }
    u = makers[kind](network, path)(0.5, X.astype(dtype))
    assert u.dtype == dtype
    assert seen == [jnp.float64 if dtype == jnp.float64 else jnp.float32]


def test_new_weights_of_the_same_function_do_not_retrace():
    traces = []

    def apply(weights, t, x):
        traces.append(None)
        return weights * x

    @jax.jit
    def call(vf, x):
        return vf(0.5, x)

    for prediction in (velocity.from_epsilon, velocity.from_data, velocity.from_v):
        traces.clear()
        for weights in (1.0, 2.0, 3.0):
            network = jax.tree_util.Partial(apply, jnp.asarray(weights))
            call(prediction(network, schedulers.vp()), X)
        assert len(traces) == 1


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


def test_guidance_of_one_field_changes_nothing():
    field = Gaussian(schedulers.vp())
    vf = model("epsilon", field, field.scheduler)
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


def test_a_network_that_cannot_be_called_is_named():
    with pytest.raises(ValueError, match="expected a function, got dict"):
        velocity.from_epsilon({"weights": X}, schedulers.vp())
