"""Laws of the velocity conversions (Table 1, eq. 5) and of guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import schedulers, velocity
from tests.fields import Gaussian
from tests.laws import ALL_SCHEDULERS, assert_close, first_of
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


SCORED = [schedulers.vp(10.0, 10.0), schedulers.ve(), schedulers.cond_ot()]


@pytest.mark.parametrize("path", first_of(SCORED, schedulers.ve()), ids=str)
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

    vf = jax.jit(velocity.from_score(score, path))
    for t in (0.2, 0.7):
        got = vf(t, mixture.X0)
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


def test_a_network_that_cannot_be_called_is_named():
    with pytest.raises(ValueError, match="expected a function, got dict"):
        velocity.from_epsilon({"weights": X}, schedulers.vp())
